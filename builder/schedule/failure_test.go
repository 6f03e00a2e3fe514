package schedule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	pkgerrors "github.com/pkg/errors"
)

// funcOp is an op made of functions.
type funcOp struct {
	key func() (Key, error)
	run func() ([]Result, error)
}

func (o funcOp) Op(*graph.Step) (Op, error)            { return o, nil }
func (o funcOp) Key(context.Context, Job) (Key, error) { return o.key() }
func (o funcOp) Run(context.Context, Job, []Result) ([]Result, error) {
	return o.run()
}

// TestFailure: an error says which step failed, where that is in the sources,
// and where it arrived.
func TestFailure(t *testing.T) {
	t.Parallel()
	step := &graph.Step{
		Digest: digest.FromString("step"), Op: &pb.Op{}, Outputs: 1, Meta: graph.Metadata{Name: "the step"},
		Locations: []graph.Location{{Info: &pb.SourceInfo{Filename: "Dockerfile"}, Ranges: []*pb.Range{{}}}},
	}
	known := func() (Key, error) { return Key{Digest: digest.FromString("key")}, nil }
	fails := func() ([]Result, error) { return nil, errFails }
	for name, c := range map[string]struct {
		op    funcOp
		want  string
		stack string
	}{
		"key":          {funcOp{func() (Key, error) { return Key{}, errFails }, nil}, errFails.Error(), "failed"},
		"key panics":   {funcOp{func() (Key, error) { panic("boom") }, nil}, "internal error: boom", "Key"},
		"wrong key":    {funcOp{func() (Key, error) { return Key{Inputs: make([]InputKey, 1)}, nil }, fails}, "internal error: key has 1 inputs, step 0", "failed"},
		"run":          {funcOp{known, fails}, errFails.Error(), "failed"},
		"run panics":   {funcOp{known, func() ([]Result, error) { panic("boom") }}, `step "the step": internal error: boom`, "Run"},
		"wrong result": {funcOp{known, func() ([]Result, error) { return nil, nil }}, "internal error: step made 0 outputs, not 1", "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(newWorld())
			defer s.Close()
			b := s.NewBuild(BuildConfig{ID: name, Ops: c.op, Sessions: func() []string { return nil }, Sink: event.Discard})
			defer b.Close()
			_, err := b.Result(t.Context(), &graph.Graph{Steps: []*graph.Step{step}, Result: graph.Output{Step: step}})
			if err == nil || err.Error() != c.want {
				t.Fatalf("got %v, want %s", err, c.want)
			}
			var vertex *bkerrdefs.VertexError
			if !errors.As(err, &vertex) || vertex.Digest != step.Digest.String() {
				t.Errorf("step: %v", vertex)
			}
			if src := bkerrdefs.Sources(err); len(src) != 1 || src[0].Info.Filename != "Dockerfile" {
				t.Errorf("sources: %v", src)
			}
			if got := stacks(err); !strings.Contains(got, c.stack+"\n") {
				t.Errorf("no %s in the stack %s", c.stack, got)
			}
		})
	}
}

// stacks gives the functions on all stacks that an error has.
func stacks(err error) string {
	var b strings.Builder
	for ; err != nil; err = errors.Unwrap(err) {
		if st, ok := err.(interface{ StackTrace() pkgerrors.StackTrace }); ok {
			for _, f := range st.StackTrace() {
				fmt.Fprintf(&b, "%n\n", f)
			}
		}
	}
	return b.String()
}
