package schedule

import (
	"context"
	"errors"
	"testing"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// endOp runs until its context ends.
type endOp struct{ running chan struct{} }

func (o endOp) Op(*graph.Step) (Op, error) { return o, nil }
func (o endOp) Key(context.Context, Job) (Key, error) {
	return Key{Digest: digest.FromString("key")}, nil
}
func (o endOp) Run(ctx context.Context, _ Job, _ []Result) ([]Result, error) {
	close(o.running)
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// TestResultsEndWithTheBuild: a client that asks for a result may still be there
// when its build has ended.
func TestResultsEndWithTheBuild(t *testing.T) {
	t.Parallel()
	w := newWorld()
	s := New(w)
	op := endOp{make(chan struct{})}
	b := s.NewBuild(BuildConfig{ID: "b", Ops: op, Sessions: func() []string { return nil }, Sink: event.Discard})
	step := &graph.Step{Digest: digest.FromString("step"), Op: &pb.Op{}, Outputs: 1}
	g := &graph.Graph{Steps: []*graph.Step{step}, Result: graph.Output{Step: step}}
	asked := make(chan error, 1)
	go func() {
		_, err := b.Result(context.Background(), g)
		asked <- err
	}()
	<-op.running
	b.Close()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("a result that was asked for before the end: %v", err)
	}
	if _, err := b.Result(context.Background(), g); !errors.Is(err, context.Canceled) {
		t.Errorf("a result that is asked for after the end: %v", err)
	}
	b.Close()
	s.Close()
	for _, err := range w.end() {
		t.Error(err)
	}
}
