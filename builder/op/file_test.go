package op

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/embedded"
	"github.com/moby/buildkit/solver/pb"
)

// fileBench runs file steps on a real store.
type fileBench struct {
	t      testing.TB
	ctx    context.Context
	store  *store.Store
	layers *layer.Store
}

func newFileBench(t testing.TB) *fileBench {
	t.Helper()
	root := t.TempDir()
	st, err := embedded.Open(context.Background(), embedded.Config{Root: filepath.Join(root, "store"), Snapshotter: "overlayfs"})
	if err != nil {
		t.Fatal(err)
	}
	ls, err := layer.New(context.Background(), st, layer.Config{Root: filepath.Join(root, "layers")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(ls.Close(context.Background()), st.Close()); err != nil {
			t.Error(err)
		}
	})
	ctx := st.Context(context.Background())
	l, err := st.Leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		t.Fatal(err)
	}
	return &fileBench{t: t, ctx: leases.WithLease(ctx, l.ID), store: st, layers: ls}
}

// fileStep makes a step of actions on some number of inputs.
func fileStep(inputs int, actions ...*pb.FileAction) *graph.Step {
	s := &graph.Step{
		Op:     &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}},
		Inputs: make([]graph.Output, inputs),
		Meta:   graph.Metadata{Name: "the step's name"},
	}
	for _, a := range actions {
		s.Outputs = max(s.Outputs, int(a.Output)+1)
	}
	return s
}

func (b *fileBench) run(step *graph.Step, inputs ...*layer.Layer) ([]*layer.Layer, error) {
	b.t.Helper()
	in := make([]schedule.Result, len(inputs))
	for i, l := range inputs {
		in[i] = l
	}
	results, err := NewFile(b.layers, step).Run(b.ctx, schedule.Job{}, in)
	out := make([]*layer.Layer, len(results))
	for i, r := range results {
		out[i], _ = r.(*layer.Layer)
	}
	return out, err
}

// must is run for what can't fail, with one output.
func (b *fileBench) must(step *graph.Step, inputs ...*layer.Layer) *layer.Layer {
	b.t.Helper()
	out, err := b.run(step, inputs...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out[0]
}

// files lists a layer's files with their content, directories with a slash.
func (b *fileBench) files(l *layer.Layer) string {
	b.t.Helper()
	dir, release, err := b.layers.Mount(b.ctx, l)
	if err != nil {
		b.t.Fatal(err)
	}
	defer release()
	var list []string
	err = filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		switch {
		case err != nil || rel == ".":
		case e.IsDir():
			list = append(list, rel+"/")
		default:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			list = append(list, rel+"="+string(data))
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.Join(list, " ")
}

// snapshots counts what is in the snapshotter, but for views, which a layer that
// was read keeps for a while.
func (b *fileBench) snapshots() (n int) {
	b.t.Helper()
	err := b.store.Snapshots.Walk(b.ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindView {
			n++
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func (b *fileBench) wantFiles(l *layer.Layer, want string) {
	b.t.Helper()
	if got := b.files(l); got != want {
		b.t.Errorf("got %s, want %s", got, want)
	}
}

func mkfile(in, out int64, p, data string) *pb.FileAction {
	return &pb.FileAction{Input: in, SecondaryInput: -1, Output: out, Action: &pb.FileAction_Mkfile{
		Mkfile: &pb.FileActionMkFile{Path: p, Mode: 0o644, Data: []byte(data), Timestamp: -1},
	}}
}

func mkdir(in, out int64, p string, owner *pb.ChownOpt) *pb.FileAction {
	return &pb.FileAction{Input: in, SecondaryInput: -1, Output: out, Action: &pb.FileAction_Mkdir{
		Mkdir: &pb.FileActionMkDir{Path: p, Mode: 0o755, MakeParents: true, Owner: owner, Timestamp: -1},
	}}
}

func remove(in, out int64, p string) *pb.FileAction {
	return &pb.FileAction{Input: in, SecondaryInput: -1, Output: out, Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: p}}}
}

func copyFrom(in, from, out int64, src, dest string) *pb.FileAction {
	return &pb.FileAction{Input: in, SecondaryInput: from, Output: out, Action: &pb.FileAction_Copy{
		Copy: &pb.FileActionCopy{Src: src, Dest: dest, Mode: -1, Timestamp: -1, CreateDestPath: true, DirCopyContents: true, FollowSymlink: true},
	}}
}

func named(name string, input int64) *pb.UserOpt {
	return &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: name, Input: input}}}
}

func TestFileChain(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	base := b.must(fileStep(0, mkfile(-1, 0, "base", "1")))
	b.wantFiles(base, "base=1")
	src := b.must(fileStep(0, mkdir(-1, -1, "d", nil), mkfile(0, 0, "d/f", "2")))
	before := b.snapshots()
	out := b.must(fileStep(2,
		mkdir(0, -1, "a/b", nil), copyFrom(2, 1, -1, "/d", "/a/c"), remove(3, -1, "base"), mkfile(4, 0, "z", "3"),
	), base, src)
	b.wantFiles(out, "a/ a/b/ a/c/ a/c/f=2 z=3")
	if out.Parent == nil || out.Parent.Name != base.Name {
		t.Errorf("the result does not stand on its input: %+v", out)
	}
	if out.Description != "the step's name" || out.Created.IsZero() {
		t.Errorf("got %+v", out)
	}
	if made := b.snapshots() - before; made != 1 {
		t.Errorf("%d snapshots were made for one output", made)
	}
	b.wantFiles(base, "base=1")
	b.wantFiles(src, "d/ d/f=2")
}

func TestFileOutputs(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	out, err := b.run(fileStep(0,
		mkfile(-1, 1, "a", "1"),         // 0
		mkfile(0, 0, "b", "2"),          // 1, goes on with an output
		mkfile(0, -1, "c", "3"),         // 2, goes on with the same
		copyFrom(2, 1, 2, "/b", "/d"),   // 3
		mkfile(2, -1, "x/y/z", "fails"), // 4, wanted by nobody
		copyFrom(3, 3, 3, "/", "/self"), // 5, reads what it goes on with
	))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"a=1 b=2", "a=1", "a=1 c=3 d=2", "a=1 c=3 d=2 self/ self/a=1 self/c=3 self/d=2"} {
		b.wantFiles(out[i], want)
	}
}

func TestFileFromNothing(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	out := b.must(fileStep(1, copyFrom(-1, -1, -1, "/", "/x"), copyFrom(1, 0, 0, "/", "/y")), nil)
	b.wantFiles(out, "x/ y/")
	_, err := b.run(fileStep(1, copyFrom(-1, 0, 0, "/foo", "/")), nil)
	if err == nil || err.Error() != "lstat /foo: no such file or directory" {
		t.Errorf("got %v", err)
	}
}

func TestFileOwner(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	base := b.must(fileStep(0,
		mkdir(-1, -1, "etc", nil), mkfile(0, -1, "etc/passwd", "app:x:10:20:::"), mkfile(1, 0, "etc/group", "web:x:30:"),
	))
	byID := func(id uint32) *pb.UserOpt { return &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: id}} }
	for want, owner := range map[string]*pb.ChownOpt{
		"10:20": {User: named("app", 0)},
		"10:30": {User: named("app", 0), Group: named("web", 1)},
		"10:5":  {User: named("app", 1), Group: byID(5)},
		"7:7":   {User: byID(7)},
		"7:30":  {User: byID(7), Group: named("web", 0)},
		"7:0":   {User: byID(7), Group: byID(0)},
		"0:30":  {Group: named("web", 0)},
		"0:0":   {User: named("nobody", 0), Group: named("nobody", 0)},
	} {
		out := b.must(fileStep(2, mkdir(0, 0, "d", owner)), base, base)
		dir, release, err := b.layers.Mount(b.ctx, out)
		if err != nil {
			t.Fatal(err)
		}
		if got := ownerText(t, filepath.Join(dir, "d")); got != want {
			t.Errorf("%v: got %s, want %s", owner, got, want)
		}
		release()
	}
	// The user is made by an action of the same step.
	out := b.must(fileStep(0,
		mkdir(-1, -1, "etc", nil), mkfile(0, -1, "etc/passwd", "late:x:8:9:::"), mkdir(1, 0, "d", &pb.ChownOpt{User: named("late", 1)}),
	))
	dir, release, err := b.layers.Mount(b.ctx, out)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if got := ownerText(t, filepath.Join(dir, "d")); got != "8:9" {
		t.Errorf("got %s", got)
	}
}

func TestFileFailure(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	before := b.snapshots()
	left := 0
	for _, c := range []struct {
		name  string
		step  *graph.Step
		index int64
		want  string
	}{
		{"at once", fileStep(0, remove(-1, 0, "x")), 0, "rm /x: no such file or directory"},
		{"later", fileStep(0, mkfile(-1, -1, "a", ""), mkfile(0, -1, "b", ""), remove(1, 0, "x")), 2, "rm /x: no such file or directory"},
		{"missing user input", fileStep(0, mkdir(-1, 0, "d", &pb.ChownOpt{User: named("app", 7)})), 0, `the user "app" is to be looked up in input 7, which doesn't exist`},
		{"negative user input", fileStep(0, mkdir(-1, 0, "d", &pb.ChownOpt{Group: named("app", -1)})), 0, `the user "app" is to be looked up in input -1, which doesn't exist`},
		{"nil user", fileStep(0, mkdir(-1, 0, "d", &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByName{}}})), 0, `the user "" is to be looked up in input 0, which doesn't exist`},
	} {
		_, err := b.run(c.step)
		var failure *Failure
		if !errors.As(err, &failure) || failure.Action.File.Index != c.index || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
			continue
		}
		left += len(failure.Trees())
	}
	// The trees of the failures are left, for whoever looks for the reasons.
	if n := b.snapshots() - before; n != left || left == 0 {
		t.Errorf("%d snapshots are left, want %d", n, left)
	}
}

func TestFileFailureTrees(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	input := b.must(fileStep(0, mkfile(-1, 0, "in", "1")))
	_, err := b.run(fileStep(1,
		mkfile(-1, -1, "from", "2"), // 1
		mkfile(0, -1, "a", "3"),     // 2
		copyFrom(2, 1, 0, "/gone", "/to"),
	), input)
	var f *Failure
	if !errors.As(err, &f) {
		t.Fatal(err)
	}
	if f.Action.File.Index != 2 || len(f.Inputs) != 1 || len(f.Mounts) != 3 {
		t.Fatalf("failure %+v", f)
	}
	b.wantFiles(f.Inputs[0], "in=1")
	b.wantFiles(f.Mounts[0], "from=2")
	b.wantFiles(f.Mounts[2], "a=3 in=1")
	if f.Mounts[1] != nil {
		t.Error("the tree of an action that another one went on with is no layer")
	}
}

func TestFileCancelled(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	base := b.must(fileStep(0, mkfile(-1, 0, "f", "1")))
	before := b.snapshots()
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	_, err := NewFile(b.layers, fileStep(1, copyFrom(-1, 0, 0, "/", "/"))).Run(ctx, schedule.Job{}, []schedule.Result{base})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := b.snapshots() - before; left != 0 {
		t.Errorf("%d snapshots are left", left)
	}
}
