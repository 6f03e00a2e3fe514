package schedule

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
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

// TestDescribed: a source is described instead of run, unless its result is there.
func TestDescribed(t *testing.T) {
	t.Parallel()
	w := newWorld()
	s := New(w)
	step := &graph.Step{Digest: digest.FromString("source"), Op: &pb.Op{}, Outputs: 1, Meta: graph.Metadata{Name: "the source"}}
	g := &graph.Graph{Steps: []*graph.Step{step}, Result: graph.Output{Step: step}}
	describe := func(Job) (Result, error) { return "described", nil }
	op := funcOp{
		func() (Key, error) { return Key{Digest: digest.FromString("key"), Describe: describe}, nil },
		func() ([]Result, error) { return []Result{"made"}, nil },
	}
	build := func(id string, get func(*Build) (Result, error)) (Result, error) {
		b := s.NewBuild(BuildConfig{ID: id, Ops: op, Sessions: func() []string { return nil }, Sink: event.Discard})
		defer b.Close()
		return get(b)
	}
	described := func(b *Build) (Result, error) { return b.Described(t.Context(), g) }
	for id, fails := range map[string]func(Job) (Result, error){
		"fails":  func(Job) (Result, error) { return nil, errFails },
		"panics": func(Job) (Result, error) { panic("boom") },
	} {
		describe = fails
		var vertex *bkerrdefs.VertexError
		if r, err := build(id, described); r != nil || !errors.As(err, &vertex) {
			t.Errorf("a description that %s: %v, %v", id, r, err)
		}
	}
	describe = func(Job) (Result, error) { return "described", nil }
	for i, want := range []Result{"described", "made", "made"} {
		get := described
		if i == 1 {
			get = func(b *Build) (Result, error) { return b.Result(t.Context(), g) }
		}
		if r, err := build(fmt.Sprint(i), get); err != nil || r != want {
			t.Errorf("build %d: %v, %v, want %v", i, r, err, want)
		}
	}
	s.Close()
	for _, err := range w.end() {
		t.Error(err)
	}
}
