package op

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/op/fileop"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// File changes file trees.
type File struct {
	layers *layer.Store
	step   *graph.Step
	file   *pb.FileOp
}

// NewFile makes the op of a step with a file body.
func NewFile(layers *layer.Store, step *graph.Step) *File {
	return &File{layers: layers, step: step, file: step.Op.GetFile()}
}

// Run implements schedule.Op.
func (f *File) Run(ctx context.Context, _ schedule.Job, inputs []schedule.Result) ([]schedule.Result, error) {
	r := &fileRun{File: f, uses: f.uses()}
	defer r.close(ctx)
	for i := range inputs {
		l, _ := inputs[i].(*layer.Layer)
		r.trees = append(r.trees, &fileTree{layer: l})
	}
	results := make([]schedule.Result, f.step.Outputs)
	for i, a := range f.file.Actions {
		if r.uses[len(inputs)+i] == 0 {
			r.trees = append(r.trees, nil) // nobody wants it
			continue
		}
		t, err := r.act(ctx, a)
		if err != nil {
			return nil, r.failure(i, err)
		}
		r.trees = append(r.trees, t)
		if a.Output >= 0 {
			results[a.Output] = t.layer
		}
	}
	return results, nil
}

// uses counts, for each input and then each action of the step, by how many
// needed actions and outputs its tree is used.
func (f *File) uses() []int {
	inputs := len(f.step.Inputs)
	uses := make([]int, inputs+len(f.file.Actions))
	for i := len(f.file.Actions) - 1; i >= 0; i-- {
		a := f.file.Actions[i]
		if a.Output >= 0 {
			uses[inputs+i] += keep
		}
		if uses[inputs+i] == 0 {
			continue
		}
		for _, in := range readBy(a) {
			if in < int64(inputs+i) {
				uses[in] += keep
			}
		}
		if a.Input >= 0 {
			uses[a.Input]++
		}
	}
	return uses
}

// keep is what an output, or an action that reads a tree, adds to its uses: the
// tree has to become a layer. Only a tree with a single use, by an action that
// goes on writing it, need not.
const keep = 2

// readBy gives the inputs that an action reads.
func readBy(a *pb.FileAction) []int64 {
	var in []int64
	if a.SecondaryInput >= 0 {
		in = append(in, a.SecondaryInput)
	}
	for _, u := range []*pb.UserOpt{ownerOf(a).GetUser(), ownerOf(a).GetGroup()} {
		if n := u.GetByName(); n != nil && n.Input >= 0 {
			in = append(in, n.Input)
		}
	}
	return in
}

// fileTree is the tree of an input or the result of an action.
type fileTree struct {
	layer *layer.Layer
	// workspace, if not nil, has the tree that is not a layer yet.
	workspace *layer.Workspace
}

// fileRun is one run of a file step.
type fileRun struct {
	*File
	uses  []int
	trees []*fileTree  // of the inputs, then of the actions so far
	left  *layer.Layer // what the action that failed has left; may be nil
}

// failure says which action failed, and what there is to see.
func (r *fileRun) failure(action int, err error) error {
	inputs := len(r.step.Inputs)
	f := &Failure{
		Err:    err,
		Action: &errdefs.Solve_File{File: &errdefs.FileAction{Index: int64(action)}},
		Inputs: make([]*layer.Layer, inputs),
		Mounts: make([]*layer.Layer, len(r.file.Actions)),
	}
	for i, t := range r.trees {
		switch {
		case t == nil:
		case i < inputs:
			f.Inputs[i] = t.layer
		default:
			f.Mounts[i-inputs] = t.layer
		}
	}
	f.Mounts[action] = r.left
	return f
}

// close removes the workspaces that did not become layers.
func (r *fileRun) close(ctx context.Context) {
	for _, t := range r.trees {
		if t != nil && t.workspace != nil {
			discard(ctx, t.workspace)
		}
	}
}

const discardTimeout = 30 * time.Second

func discard(ctx context.Context, w *layer.Workspace) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
	defer cancel()
	if err := w.Discard(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("a tree is left until the next start")
	}
}

// act runs an action and gives the tree that it leaves.
func (r *fileRun) act(ctx context.Context, a *pb.FileAction) (_ *fileTree, err error) {
	w, err := r.workspace(ctx, a.Input)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.left = salvage(ctx, w)
			discard(ctx, w)
		}
	}()
	if err := r.change(ctx, w, a); err != nil {
		return nil, err
	}
	if r.uses[len(r.trees)] == 1 {
		return &fileTree{workspace: w}, nil
	}
	l, err := w.Commit(ctx, layer.Meta{Created: time.Now(), Description: r.step.Meta.Name})
	if err != nil {
		return nil, fmt.Errorf("keep the changes: %w", err)
	}
	return &fileTree{layer: l}, nil
}

// workspace gives a writable tree: that of the action before, if nobody else
// wants it, or else a new one on top of the input.
func (r *fileRun) workspace(ctx context.Context, input int64) (*layer.Workspace, error) {
	var parent *layer.Layer
	if input >= 0 {
		t := r.trees[input]
		if w := t.workspace; w != nil {
			t.workspace = nil
			return w, nil
		}
		parent = t.layer
	}
	return r.layers.NewWorkspace(ctx, parent)
}

// change does what an action says to the workspace.
func (r *fileRun) change(ctx context.Context, w *layer.Workspace, a *pb.FileAction) error {
	dir, err := w.Files(ctx)
	if err != nil {
		return err
	}
	dst, err := fileop.Open(dir)
	if err != nil {
		return err
	}
	defer dst.Close()
	owner, err := r.owner(ctx, ownerOf(a))
	if err != nil {
		return err
	}
	switch x := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		return dst.Mkdir(x.Mkdir, owner)
	case *pb.FileAction_Mkfile:
		return dst.Mkfile(x.Mkfile, owner)
	case *pb.FileAction_Symlink:
		return dst.Symlink(x.Symlink, owner)
	case *pb.FileAction_Rm:
		return dst.Remove(x.Rm)
	case *pb.FileAction_Copy:
		return r.read(ctx, a.SecondaryInput, func(src *fileop.Tree) error {
			return fileop.Copy(ctx, src, dst, x.Copy, owner)
		})
	}
	return fmt.Errorf("the kind of the action, %T, is not known", a.Action)
}

// read calls f with the tree of an input or action; -1 is the empty tree.
func (r *fileRun) read(ctx context.Context, input int64, f func(*fileop.Tree) error) error {
	var l *layer.Layer
	if input >= 0 {
		l = r.trees[input].layer
	}
	dir, release, err := r.layers.Files(ctx, l)
	if err != nil {
		return err
	}
	defer release()
	t, err := fileop.Open(dir)
	if err != nil {
		return err
	}
	defer t.Close()
	return f(t)
}
