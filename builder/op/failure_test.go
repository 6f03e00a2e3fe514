package op

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
)

// script makes a step that runs a shell script; input 0 is its root.
func script(text string, mounts ...*pb.Mount) *graph.Step {
	root := &pb.Mount{Dest: "/", Input: 0, Output: 0}
	s := &graph.Step{
		Op: &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{
			Meta:   &pb.Meta{Args: []string{"/bin/sh", "-c", text}},
			Mounts: append([]*pb.Mount{root}, mounts...),
		}}},
		Outputs: 1, Platform: &pb.Platform{},
	}
	for _, m := range mounts {
		s.Outputs = max(s.Outputs, int(m.Output)+1)
	}
	return s
}

func (b *execBench) exec(ctx context.Context, step *graph.Step, inputs ...*layer.Layer) ([]schedule.Result, error) {
	in := []schedule.Result{b.root}
	for _, l := range inputs {
		in = append(in, l)
	}
	return NewExec(b.cfg, step, ExecGrants{}).Run(ctx, b.job, in)
}

func TestExecFailure(t *testing.T) {
	t.Parallel()
	b := newExecBench(t)
	input := b.must(fileStep(0, mkfile(-1, 0, "in", "1")))
	before := b.snapshots()
	_, err := b.exec(b.ctx, script("echo 2 > /made; echo 3 > /out/made; echo 4 > /unkept/made; exit 5",
		&pb.Mount{Dest: "/out", Input: 1, Output: 1},
		&pb.Mount{Dest: "/unkept", Input: -1, Output: -1},
		&pb.Mount{Dest: "/read", Input: 1, Output: -1, Readonly: true},
		&pb.Mount{Dest: "/tmp", Input: -1, Output: -1, MountType: pb.MountType_TMPFS},
	), input)
	var f *Failure
	var exit *gatewaypb.ExitError
	if !errors.As(err, &f) || !errors.As(err, &exit) || exit.ExitCode != 5 {
		t.Fatal(err)
	}
	if want := []*layer.Layer{b.root, input, nil, input, nil}; !slices.Equal(f.Inputs, want) {
		t.Errorf("inputs %v", f.Inputs)
	}
	if len(f.Mounts) != 5 || f.Mounts[3] != input || f.Mounts[4] != nil {
		t.Fatalf("mounts %v", f.Mounts)
	}
	if got := b.files(f.Mounts[0]); !strings.Contains(got, "made=2\n") {
		t.Errorf("the root is left with %s", got)
	}
	b.wantFiles(f.Mounts[1], "in=1 made=3\n")
	b.wantFiles(f.Mounts[2], "made=4\n")
	if n := b.snapshots() - before; n != 3 || len(f.Trees()) != 5 {
		t.Errorf("%d snapshots are left, of trees %v", n, f.Trees())
	}
	b.nothingMounted()
}

func TestExecFailureBeforeStart(t *testing.T) {
	t.Parallel()
	b := newExecBench(t)
	_, err := b.exec(b.ctx, script("true",
		&pb.Mount{Dest: "/absent", Input: 1, Output: 1, Selector: "absent"},
	), nil)
	var f *Failure
	if !errors.As(err, &f) || len(f.Inputs) != 2 || f.Inputs[1] != nil {
		t.Errorf("got %v", err)
	}
	b.nothingMounted()
}

func TestExecCancelled(t *testing.T) {
	t.Parallel()
	b := newExecBench(t)
	before := b.snapshots()
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	_, err := b.exec(ctx, script("true"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := b.snapshots() - before; left != 0 {
		t.Errorf("%d snapshots are left", left)
	}
	b.nothingMounted()
}

func TestExecOutputs(t *testing.T) {
	t.Parallel()
	b := newExecBench(t)
	input := b.must(fileStep(0, mkfile(-1, 0, "in", "1")))
	results, err := b.exec(b.ctx, script("echo 2 > /out/made",
		&pb.Mount{Dest: "/out", Input: 1, Output: 1},
		&pb.Mount{Dest: "/read", Input: 1, Output: 2, Readonly: true},
		&pb.Mount{Dest: "/nothing", Input: -1, Output: 3, Readonly: true},
	), input)
	if err != nil {
		t.Fatal(err)
	}
	b.wantFiles(results[1].(*layer.Layer), "in=1 made=2\n")
	if results[2] != input {
		t.Errorf("the output of a read-only mount is %v, not its input", results[2])
	}
	if results[3] != nil {
		t.Errorf("the output of an empty read-only mount is %v", results[3])
	}
}
