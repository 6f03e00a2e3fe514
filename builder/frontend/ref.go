package frontend

import (
	"context"

	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// Ref is a tree that may not have been made yet. It implements
// gwclient.Reference.
type Ref struct {
	id    string
	b     *Bridge
	def   *pb.Definition
	graph *graph.Graph
}

// ID names the reference in its build.
func (r *Ref) ID() string { return r.id }

// Definition is what the tree is made by.
func (r *Ref) Definition() *pb.Definition { return r.def }

// ToState implements gwclient.Reference.
func (r *Ref) ToState() (llb.State, error) { return toState(r.def) }

func toState(def *pb.Definition) (llb.State, error) {
	if def == nil || len(def.Def) == 0 {
		return llb.Scratch(), nil
	}
	op, err := llb.NewDefinitionOp(def)
	if err != nil {
		return llb.State{}, err
	}
	return llb.NewState(op), nil
}

// Layer makes the tree, and keeps it until the build has ended.
func (r *Ref) Layer(ctx context.Context) (*layer.Layer, error) {
	if r == nil {
		return nil, nil
	}
	res, err := r.b.cfg.Build.Result(ctx, r.graph)
	if err != nil {
		return nil, r.b.explain(err)
	}
	l, _ := res.(*layer.Layer)
	return l, nil
}

// Described is [Ref.Layer] for those who need the tree's blobs only: what is a
// registry's may be [layer.Remote].
func (r *Ref) Described(ctx context.Context) (*layer.Layer, error) {
	if r == nil {
		return nil, nil
	}
	res, err := r.b.cfg.Build.Described(ctx, r.graph)
	if err != nil {
		return nil, r.b.explain(err)
	}
	l, _ := res.(*layer.Layer)
	return l, nil
}

// Evaluate makes the tree.
func (r *Ref) Evaluate(ctx context.Context) error {
	_, err := r.Layer(ctx)
	return err
}

// ReadFile reads a regular file of the tree, or a range of it.
func (r *Ref) ReadFile(ctx context.Context, req gwclient.ReadRequest) (dt []byte, err error) {
	err = r.with(ctx, func(f files) error {
		dt, err = f.read(req)
		return err
	})
	return dt, err
}

// StatFile describes a file of the tree; a symbolic link isn't followed.
func (r *Ref) StatFile(ctx context.Context, req gwclient.StatRequest) (st *fstypes.Stat, err error) {
	err = r.with(ctx, func(f files) error {
		st, err = f.lstat(req.Path)
		return err
	})
	return st, err
}

// ReadDir lists a directory of the tree.
func (r *Ref) ReadDir(ctx context.Context, req gwclient.ReadDirRequest) (list []*fstypes.Stat, err error) {
	err = r.with(ctx, func(f files) error {
		list, err = f.list(req)
		return err
	})
	return list, err
}

// with calls f with the files of the tree.
func (r *Ref) with(ctx context.Context, f func(files) error) error {
	l, err := r.Layer(ctx)
	if err != nil {
		return err
	}
	dir, release, err := r.b.cfg.Layers.Mount(ctx, l)
	if err != nil {
		return err
	}
	defer release()
	tree, err := openFiles(dir, linksInRoot)
	if err != nil {
		return err
	}
	defer tree.close()
	return f(tree)
}
