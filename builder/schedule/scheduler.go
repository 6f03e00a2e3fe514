package schedule

import (
	"context"
	"fmt"
	"slices"
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
	content []cache.Input // parallel to inputs
	parents []cache.ID
	lost    bool
}

// rescue makes an error of a panic; it is to be deferred.
func (w work) rescue(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("step %q: %w", w.step.Meta.Name, panicked(p))
	}
}

// run is the one run of an identity. It ends early when nobody waits for it.
type run struct {
	leader  *Build
	hub     *hub
	ctx     context.Context
	cancel  context.CancelFunc
	waiters int // under Scheduler.mu
	// awaits are the runs that builds inside of this one wait for, and how many
	// times; under Scheduler.mu.
	awaits  map[*run]int
	done    chan struct{}
	results []Result
	made    *cache.Record // nil where it was there already
	err     error
}

// do gives the results of w's identity: those of a run that is under way, or
// of a new one.
func (s *Scheduler) do(ctx context.Context, b *Build, w work) ([]Result, error) {
	b.acquire(w.id)
	outer := around(ctx)
	for {
		r, joined, err := s.join(b, w, outer)
		if err != nil {
			return nil, err
		}
		results, err := s.wait(ctx, r)
		if !joined {
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			continue
		}
		s.leave(b, r, outer)
		if err != nil && r.leader != b && r.deserted(err) && ctx.Err() == nil {
			continue
		}
		if err == nil {
			b.vertices.complete(w.step.Digest, nil)
			b.ran(w, r.made)
		}
		return results, err
	}
}

// deserted tells whether the run failed because its leader went away, or lost
// its session, which it does first. One who stays then tries again.
func (r *run) deserted(err error) bool {
	return r.leader.ctx.Err() != nil || errdefs.IsUnavailable(err)
}

// join makes b wait for the run of w's identity. A run that has been given up
// can't be joined: only its end can be waited for. A run that could only end
// after outer, inside of which b builds, fails with errdefs.ErrInvalidArgument.
func (s *Scheduler) join(b *Build, w work, outer *run) (_ *run, joined bool, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[w.id]
	if r != nil && r.waiters == 0 {
		return r, false, nil
	}
	begun := r != nil
	if begun && outer != nil && r.endsAfter(outer, map[*run]bool{}) {
		return nil, false, fmt.Errorf("step %q is needed for a definition that it waits for: %w", w.step.Meta.Name, errdefs.ErrInvalidArgument)
	}
	if !begun {
		ctx, cancel := context.WithCancel(s.ctx)
		r = &run{leader: b, hub: newHub(), cancel: cancel, done: make(chan struct{}), awaits: map[*run]int{}}
		r.ctx = inside(ctx, r)
		s.runs[w.id] = r
	}
	if outer != nil {
		outer.awaits[r]++
	}
	r.waiters++
	r.hub.join(b, w.step.Digest)
	if !begun {
		s.begin(r, w)
	}
	return r, true, nil
}

// begin starts the run. What it stands on is kept, though its leader leaves.
func (s *Scheduler) begin(r *run, w work) {
	used := append(slices.Clone(w.parents), w.id)
	for _, id := range used {
		s.records.Acquire(id)
	}
	s.working.Go(func() {
		s.execute(r, w)
		for _, id := range used {
			s.records.Release(id)
		}
	})
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
func (s *Scheduler) leave(b *Build, r, outer *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.hub.leave(b)
	if outer != nil {
		if outer.awaits[r]--; outer.awaits[r] == 0 {
			delete(outer.awaits, r)
		}
	}
	if r.waiters--; r.waiters == 0 {
		r.cancel()
	}
}

func (s *Scheduler) execute(r *run, w work) {
	defer r.cancel()
	defer close(r.done)
	defer func() {
		s.mu.Lock()
		delete(s.runs, w.id)
		s.mu.Unlock()
	}()
	defer w.rescue(&r.err)
	r.results, r.err = s.runStep(r, w)
}

func (s *Scheduler) runStep(r *run, w work) (_ []Result, err error) {
	// A run may have ended between the lookup and now.
	if results, err := s.records.Load(r.ctx, w.id); !errdefs.IsNotFound(err) {
		return results, err
	}
	begun := time.Now()
	rctx, err := s.records.Begin(r.ctx, w.id)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.records.Abort(w.id, err)
		}
	}()
	defer w.rescue(&err)
	job := Job{Sessions: r.hub.sessions, Progress: event.Progress{Sink: r.hub, Vertex: w.step.Digest}}
	results, err := w.op.Run(rctx, job, w.inputs)
	if err != nil {
		return nil, err
	}
	rec := cache.Record{
		ID: w.id, Description: w.key.Record, Parents: w.parents,
		Step: w.step.Meta.Name, Op: w.key.Digest, Parts: w.key.Parts, Inputs: w.content,
		Created: time.Now(), Duration: time.Since(begun),
	}
	if rec.Text == "" {
		rec.Text = w.step.Meta.Name
	}
	if err := s.records.Commit(rctx, rec, results, w.keys...); err != nil {
		return nil, err
	}
	r.made = &rec
	return results, nil
}
