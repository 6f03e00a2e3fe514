package schedule

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
)

// Scheduler runs the steps of all builds.
type Scheduler struct {
	records Records
	ctx     context.Context
	cancel  context.CancelFunc
	working sync.WaitGroup

	mu   sync.Mutex
	runs map[cache.ID]*run
}

// New makes a scheduler that keeps its results in records. It must be closed.
func New(records Records) *Scheduler {
	ctx, cancel := context.WithCancel(context.Background())
	return &Scheduler{records: records, ctx: ctx, cancel: cancel, runs: map[cache.ID]*run{}}
}

// Close ends all runs and waits for them. No build may be begun any more.
func (s *Scheduler) Close() {
	s.cancel()
	s.working.Wait()
}

// work is all that it takes to run a step.
type work struct {
	id      cache.ID
	step    *graph.Step
	op      Op
	key     Key
	keys    []cache.Key
	inputs  []Result
	parents []cache.ID
}

// run is the one run of an identity. It ends early when nobody waits for it.
type run struct {
	leader  *Build
	hub     *hub
	cancel  context.CancelFunc
	waiters int // under Scheduler.mu
	done    chan struct{}
	results []Result
	err     error
}

// do gives the results of w's identity: those of a run that is under way, or
// of a new one.
func (s *Scheduler) do(ctx context.Context, b *Build, w work) ([]Result, error) {
	b.acquire(w.id)
	b.vertices.start(w.step.Digest)
	for {
		r, joined := s.join(b, w)
		results, err := s.wait(ctx, r)
		if !joined {
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			continue
		}
		s.leave(b, r)
		// What failed because its leader went away is tried again by one who
		// stays.
		if err != nil && r.leader != b && r.leader.ctx.Err() != nil && ctx.Err() == nil {
			continue
		}
		if err == nil {
			b.vertices.complete(w.step.Digest, nil)
		}
		return results, err
	}
}

// join makes b wait for the run of w's identity. A run that has been given up
// can't be joined: only its end can be waited for.
func (s *Scheduler) join(b *Build, w work) (_ *run, joined bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[w.id]
	if r != nil && r.waiters == 0 {
		return r, false
	}
	if r == nil {
		ctx, cancel := context.WithCancel(s.ctx)
		r = &run{leader: b, hub: newHub(), cancel: cancel, done: make(chan struct{})}
		s.runs[w.id] = r
		s.records.Acquire(w.id)
		s.working.Add(1)
		go s.execute(ctx, r, w)
	}
	r.waiters++
	r.hub.join(b, w.step.Digest)
	return r, true
}

func (s *Scheduler) wait(ctx context.Context, r *run) ([]Result, error) {
	select {
	case <-r.done:
		return r.results, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// leave gives the run up when nobody is left.
func (s *Scheduler) leave(b *Build, r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.hub.leave(b)
	if r.waiters--; r.waiters == 0 {
		r.cancel()
	}
}

func (s *Scheduler) execute(ctx context.Context, r *run, w work) {
	defer s.working.Done()
	defer s.records.Release(w.id)
	defer r.cancel()
	defer close(r.done)
	defer func() {
		s.mu.Lock()
		delete(s.runs, w.id)
		s.mu.Unlock()
	}()
	defer func() {
		if p := recover(); p != nil {
			r.err = fmt.Errorf("step %q: %w", w.step.Meta.Name, panicked(p))
		}
	}()
	r.results, r.err = s.runStep(ctx, r, w)
}

func (s *Scheduler) runStep(ctx context.Context, r *run, w work) (_ []Result, err error) {
	if results, err := s.existing(ctx, w); err == nil {
		return results, nil
	} else if !errdefs.IsNotFound(err) {
		return nil, err
	}
	begun := time.Now()
	rctx, err := s.records.Begin(ctx, w.id)
	if err != nil {
		return nil, err
	}
	committed := false
	defer func() {
		if !committed {
			s.records.Abort(w.id, err)
		}
	}()
	job := Job{Sessions: r.hub.sessions, Progress: event.Progress{Sink: r.hub, Vertex: w.step.Digest}}
	results, err := w.op.Run(rctx, job, w.inputs)
	if err != nil {
		return nil, err
	}
	rec := cache.Record{
		ID: w.id, Description: w.key.Record, Parents: w.parents, Parts: w.key.Parts,
		Created: time.Now(), Duration: time.Since(begun),
	}
	if rec.Text == "" {
		rec.Text = w.step.Meta.Name
	}
	if err := s.records.Commit(rctx, rec, results, w.keys...); err != nil {
		return nil, err
	}
	committed = true
	return results, nil
}

// existing gives the results of a record that was finished between the lookup
// and now.
func (s *Scheduler) existing(ctx context.Context, w work) ([]Result, error) {
	id, err := s.records.Lookup(cache.Key(w.id))
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, fmt.Errorf("record %s: %w", w.id, errdefs.ErrNotFound)
	}
	defer s.records.Release(id)
	return s.records.Load(ctx, id)
}
