package schedule

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// The model: a step's result is a number that depends on what the step is and
// on its inputs' results. Where an input counts by content, it depends on the
// number modulo 4 only, so that different inputs often have equal content.

type modelStep struct {
	name    string
	content []bool // by input
	source  int    // value of a step without inputs
	fails   bool
	slow    time.Duration
}

type model struct {
	steps map[*graph.Step]*modelStep
	graph *graph.Graph
}

// naive evaluates without any cache.
func (m *model) naive() (map[*graph.Step]int, error) {
	values := map[*graph.Step]int{}
	for _, s := range m.graph.Steps {
		ms := m.steps[s]
		if ms.fails {
			return nil, errFails
		}
		inputs := make([]int, len(s.Inputs))
		for i, in := range s.Inputs {
			inputs[i] = values[in.Step] + in.Index
		}
		values[s] = ms.value(inputs)
	}
	return values, nil
}

var errFails = errors.New("this step fails")

func (ms *modelStep) value(inputs []int) int {
	if len(inputs) == 0 {
		return ms.source
	}
	v := 0
	for i, in := range inputs {
		if ms.content[i] {
			in %= 4
		}
		v = v*31 + in
	}
	for _, c := range ms.name {
		v = v*7 + int(c)
	}
	return v & 0xffffff
}

// randomModel makes a graph of n steps. Steps with the same name and inputs
// are the same step; few names make many of them.
func randomModel(r *rand.Rand, n int, failures bool) *model {
	m := &model{steps: map[*graph.Step]*modelStep{}, graph: &graph.Graph{}}
	for i := range n {
		ms := &modelStep{name: fmt.Sprint("op", r.IntN(4))}
		s := &graph.Step{Op: &pb.Op{}, Outputs: 1 + r.IntN(2), Platform: &pb.Platform{OS: "linux", Architecture: "amd64"}}
		if i > 0 && r.IntN(4) > 0 {
			for range 1 + r.IntN(3) {
				in := m.graph.Steps[r.IntN(i)]
				s.Inputs = append(s.Inputs, graph.Output{Step: in, Index: r.IntN(in.Outputs)})
				ms.content = append(ms.content, r.IntN(2) == 0)
			}
		} else {
			ms.source = r.IntN(12)
			ms.name = fmt.Sprint("source", ms.source)
		}
		s.Digest = digest.FromString(fmt.Sprint(i))
		s.Meta = graph.Metadata{Name: fmt.Sprint("step ", i), IgnoreCache: r.IntN(10) == 0}
		if failures && r.IntN(2*n) == 0 {
			ms.fails, ms.name = true, "fails"
		}
		if r.IntN(8) == 0 {
			ms.slow = time.Duration(r.IntN(300)) * time.Microsecond
		}
		m.steps[s] = ms
		m.graph.Steps = append(m.graph.Steps, s)
	}
	root := m.graph.Steps[n-1]
	m.graph.Result = graph.Output{Step: root, Index: r.IntN(root.Outputs)}
	m.prune()
	return m
}

// prune leaves the steps that the result needs, each digest once.
func (m *model) prune() {
	needed := map[*graph.Step]bool{m.graph.Result.Step: true}
	var steps []*graph.Step
	for i := len(m.graph.Steps) - 1; i >= 0; i-- {
		s := m.graph.Steps[i]
		if !needed[s] {
			continue
		}
		steps = append([]*graph.Step{s}, steps...)
		for _, in := range s.Inputs {
			needed[in.Step] = true
		}
	}
	m.graph.Steps = steps
}

// world is what all builds of a test share: the cache and what is running.
type world struct {
	mu      sync.Mutex
	keys    map[cache.Key]cache.ID
	records map[cache.ID][]Result
	inUse   map[cache.ID]int
	begun   map[cache.ID]bool
	running map[cache.ID]int
	errs    []error
}

func newWorld() *world {
	return &world{
		keys: map[cache.Key]cache.ID{}, records: map[cache.ID][]Result{},
		inUse: map[cache.ID]int{}, begun: map[cache.ID]bool{}, running: map[cache.ID]int{},
	}
}

func (w *world) bad(format string, args ...any) { w.errs = append(w.errs, fmt.Errorf(format, args...)) }

func (w *world) Lookup(k cache.Key) (cache.ID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := w.keys[k]
	if id != "" {
		w.inUse[id]++
	}
	return id, nil
}

func (w *world) Bind(id cache.ID, keys ...cache.Key) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range keys {
		w.keys[k] = id
	}
	return nil
}

func (w *world) Acquire(id cache.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inUse[id]++
}

func (w *world) Release(id cache.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inUse[id]--; w.inUse[id] < 0 {
		w.bad("record %s was released too often", id)
	}
}

func (w *world) Load(_ context.Context, id cache.ID) ([]Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r, ok := w.records[id]; ok {
		return r, nil
	}
	return nil, errdefs.ErrNotFound
}

type runKey struct{}

func (w *world) Begin(ctx context.Context, id cache.ID) (context.Context, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.begun[id] {
		w.bad("identity %s runs twice at the same time", id)
	}
	if _, ok := w.records[id]; ok {
		w.bad("identity %s runs although its record is there", id)
	}
	w.begun[id] = true
	return context.WithValue(ctx, runKey{}, id), nil
}

func (w *world) Commit(_ context.Context, rec cache.Record, results []Result, keys ...cache.Key) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.begun[rec.ID] {
		w.bad("commit of %s without begin", rec.ID)
	}
	if w.inUse[rec.ID] == 0 {
		w.bad("record %s is not in use when it is committed", rec.ID)
	}
	delete(w.begun, rec.ID)
	w.records[rec.ID] = results
	for _, k := range keys {
		w.keys[k] = rec.ID
	}
	return nil
}

func (w *world) Abort(id cache.ID, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.begun[id] {
		w.bad("abort of %s without begin", id)
	}
	if err == nil {
		w.bad("abort of %s without an error", id)
	}
	delete(w.begun, id)
}

// forget removes some records that nobody uses, as a collection does.
func (w *world) forget(r *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.records {
		if w.inUse[id] == 0 && r.IntN(3) == 0 {
			delete(w.records, id)
			if r.IntN(2) == 0 {
				continue // its keys stay: what it needs has vanished
			}
			for k, v := range w.keys {
				if v == id {
					delete(w.keys, k)
				}
			}
		}
	}
}

type modelOps struct{ m *model }

func (o modelOps) Op(s *graph.Step) (Op, error) { return &modelOp{o.m.steps[s], s}, nil }

type modelOp struct {
	ms *modelStep
	s  *graph.Step
}

func (o *modelOp) Key(context.Context, Job) (Key, error) {
	k := Key{Digest: digest.FromString(fmt.Sprint(o.ms.name, o.ms.source, o.s.Outputs, o.ms.content))}
	for _, c := range o.ms.content {
		in := InputKey{}
		if c {
			in.Content = func(_ context.Context, _ Job, r Result) (digest.Digest, error) {
				return digest.FromString(fmt.Sprint(r.(int) % 4)), nil
			}
		}
		k.Inputs = append(k.Inputs, in)
	}
	return k, nil
}

func (o *modelOp) Run(ctx context.Context, _ Job, inputs []Result) ([]Result, error) {
	if o.ms.slow > 0 {
		select {
		case <-time.After(o.ms.slow):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if o.ms.fails {
		return nil, errFails
	}
	values := make([]int, len(inputs))
	for i, in := range inputs {
		values[i] = in.(int)
	}
	v := o.ms.value(values)
	results := make([]Result, o.s.Outputs)
	for i := range results {
		results[i] = v + i
	}
	return results, nil
}

// TestModel compares many random builds, some at the same time, some cancelled,
// with the naive evaluation.
func TestModel(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 100
	}
	for seed := range uint64(rounds) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			runModel(t, seed)
		})
	}
}

func runModel(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld()
	s := New(w)
	var models []*model
	for range 1 + r.IntN(3) {
		models = append(models, randomModel(r, 1+r.IntN(12), r.IntN(4) == 0))
	}
	for range 1 + r.IntN(3) {
		var wg sync.WaitGroup
		for i := range 1 + r.IntN(4) {
			m := models[r.IntN(len(models))]
			cancelAfter := time.Duration(0)
			if r.IntN(4) == 0 {
				cancelAfter = time.Duration(1+r.IntN(400)) * time.Microsecond
			}
			id := fmt.Sprint(seed, "-", i, "-", r.Uint64())
			wg.Go(func() { oneBuild(t, seed, s, m, id, cancelAfter) })
		}
		wg.Wait()
		w.forget(r)
	}
	s.Close()
	for _, err := range w.errs {
		t.Errorf("seed %d: %v", seed, err)
	}
	for id, n := range w.inUse {
		if n != 0 {
			t.Errorf("seed %d: record %s is still in use by %d", seed, id, n)
		}
	}
	if len(w.begun) > 0 {
		t.Errorf("seed %d: %d runs neither committed nor aborted", seed, len(w.begun))
	}
}

func oneBuild(t *testing.T, seed uint64, s *Scheduler, m *model, id string, cancelAfter time.Duration) {
	ctx := t.Context()
	if cancelAfter > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cancelAfter)
		defer cancel()
	}
	b := s.NewBuild(BuildConfig{ID: id, Ops: modelOps{m}, Sessions: func() []string { return nil }, Sink: event.Discard})
	defer b.Close()
	got, err := b.Result(ctx, m.graph)
	if ctx.Err() != nil {
		return
	}
	want, wantErr := m.naive()
	switch {
	case wantErr != nil && err == nil:
		t.Errorf("seed %d: build succeeded, want %v", seed, wantErr)
	case wantErr == nil && err != nil:
		t.Errorf("seed %d: %v", seed, err)
	case err == nil:
		if v := want[m.graph.Result.Step] + m.graph.Result.Index; got != v {
			t.Errorf("seed %d: got %v, want %v", seed, got, v)
		}
	}
}
