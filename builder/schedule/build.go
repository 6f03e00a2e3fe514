package schedule

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"
	pkgerrors "github.com/pkg/errors"
)

// BuildConfig is what a build brings along.
type BuildConfig struct {
	// ID is unique among all builds ever.
	ID string
	// Ops makes the ops of the build's steps.
	Ops Ops
	// Sessions are the ids of the client sessions that the build may use.
	Sessions func() []string
	// Sink takes what the build reports.
	Sink event.Sink
	// Ran is told of each step that was run for the build; it may be nil. It is
	// called from several goroutines.
	Ran func(Ran)
}

// Ran is a step that was run, and the record of it, without its outputs.
type Ran struct {
	Step   *graph.Step
	Key    Key
	Record cache.Record
	// Lost: there was a record, and what it needs has vanished.
	Lost bool
}

// Build is one user's work with the scheduler: it gives the results of any
// number of graphs, whose steps it pins once. What it has used is kept from
// being removed until Close.
type Build struct {
	s        *Scheduler
	cfg      BuildConfig
	vertices *vertices
	ctx      context.Context
	cancel   context.CancelFunc
	work     sync.WaitGroup // added to under mu, unless closed

	mu       sync.Mutex
	closed   bool
	pins     map[digest.Digest]*pin
	acquired map[cache.ID]int
}

// pin is a step's op and key, which are made once per build.
type pin struct {
	done chan struct{}
	op   Op
	key  Key
	err  error
}

// NewBuild begins a build. It must be closed.
func (s *Scheduler) NewBuild(cfg BuildConfig) *Build {
	ctx, cancel := context.WithCancel(s.ctx)
	return &Build{
		s: s, cfg: cfg, ctx: ctx, cancel: cancel,
		vertices: newVertices(cfg.Sink),
		pins:     map[digest.Digest]*pin{},
		acquired: map[cache.ID]int{},
	}
}

// Result returns the results of the graph's wanted step, nil for the empty
// graph. It may be called concurrently. Errors name the failed step, what it was
// to do and its place in the sources (errdefs.VertexError, OpError, SourceError).
func (b *Build) Result(ctx context.Context, g *graph.Graph) (Result, error) {
	if g.Result.Step == nil {
		return nil, nil
	}
	if err := b.begin(); err != nil {
		return nil, err
	}
	defer b.work.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.ctx, func() { cancel(errBuildEnded) })()
	b.vertices.add(g)
	results, err := newPlan(b, g).run(ctx)
	if err != nil {
		return nil, err
	}
	return results[g.Result.Index], nil
}

// Described is [Build.Result] for those to whom a description will do, see
// [Key.Describe]. It is given of what isn't there.
func (b *Build) Described(ctx context.Context, g *graph.Graph) (r Result, err error) {
	s := g.Result.Step
	if s == nil || len(s.Inputs) > 0 {
		return b.Result(ctx, g)
	}
	if err := b.begin(); err != nil {
		return nil, err
	}
	defer b.work.Done()
	b.vertices.add(g)
	_, key, err := b.pin(ctx, s)
	if err != nil {
		return nil, b.failed(s, err)
	}
	id, err := b.lookup(s, cache.DefinitionKey(key.Digest, nil))
	if err != nil {
		return nil, b.failed(s, err)
	}
	if key.Describe == nil || id != "" {
		return b.Result(ctx, g)
	}
	defer func() {
		if p := recover(); p != nil {
			r, err = nil, b.failed(s, panicked(p))
		}
	}()
	if r, err = key.Describe(b.job(s)); err != nil {
		return nil, b.failed(s, err)
	}
	b.vertices.cached(s.Digest, key.Worked)
	return r, nil
}

// errBuildEnded is the cause of the end of what a build did when it was closed.
var errBuildEnded = fmt.Errorf("the build has ended: %w", context.Canceled)

// begin keeps the build from ending until work.Done.
func (b *Build) begin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errBuildEnded
	}
	b.work.Add(1)
	return nil
}

// Close ends what the build still does, waits for it, and releases what the
// build used.
func (b *Build) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.work.Wait()
	b.vertices.close()
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, n := range b.acquired {
		for range n {
			b.s.records.Release(id)
		}
	}
	b.acquired = nil
}

// job is what an op of the build may use while it isn't shared.
func (b *Build) job(s *graph.Step) Job {
	return Job{Sessions: b.cfg.Sessions, Progress: event.Progress{Sink: b.cfg.Sink, Vertex: s.Digest}}
}

// key gives the op and the key of a step that has inputs; it doesn't block.
func (b *Build) key(ctx context.Context, s *graph.Step) (Op, Key, error) {
	op, err := b.cfg.Ops.Op(s)
	if err != nil {
		return nil, Key{}, err
	}
	key, err := op.Key(ctx, b.job(s))
	return op, key, err
}

// pin gives the op and the key of a step without inputs. That is done once in
// a build, whoever asks; after a failure the next caller tries again.
func (b *Build) pin(ctx context.Context, s *graph.Step) (Op, Key, error) {
	b.mu.Lock()
	p := b.pins[s.Digest]
	if p == nil {
		p = &pin{done: make(chan struct{})}
		b.pins[s.Digest] = p
		b.work.Add(1)
		go b.makePin(s, p)
	}
	b.mu.Unlock()
	select {
	case <-p.done:
		return p.op, p.key, p.err
	case <-ctx.Done():
		return nil, Key{}, context.Cause(ctx)
	}
}

func (b *Build) makePin(s *graph.Step, p *pin) {
	defer b.work.Done()
	defer close(p.done)
	defer func() {
		if r := recover(); r != nil {
			p.err = panicked(r)
		}
		if p.err != nil {
			b.mu.Lock()
			delete(b.pins, s.Digest)
			b.mu.Unlock()
		}
	}()
	b.vertices.start(s.Digest)
	p.op, p.key, p.err = b.key(b.ctx, s)
}

// lookup asks the cache for a key of the step. A step that is to ignore the
// cache finds only what this build has made.
func (b *Build) lookup(s *graph.Step, key cache.Key) (cache.ID, error) {
	id, err := b.s.records.Lookup(cache.Key(b.identity(s, key)))
	if err == nil && id != "" {
		b.count(id)
	}
	return id, err
}

// identity is the one under which a step with this key runs.
func (b *Build) identity(s *graph.Step, key cache.Key) cache.ID {
	if s.Meta.IgnoreCache {
		return cache.ID(cache.FreshKey(key, b.cfg.ID))
	}
	return cache.ID(key)
}

// acquire keeps the record until the build ends.
func (b *Build) acquire(id cache.ID) {
	b.s.records.Acquire(id)
	b.count(id)
}

func (b *Build) count(id cache.ID) {
	b.mu.Lock()
	b.acquired[id]++
	b.mu.Unlock()
}

// Uses says whether the build keeps the record from being removed.
func (b *Build) Uses(id cache.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.acquired[id] > 0
}

// failed reports a step's failure and says in the error which step it was, and
// for those who debug where it arrived.
func (b *Build) failed(s *graph.Step, err error) error {
	b.vertices.complete(s.Digest, err)
	var known *bkerrdefs.VertexError
	if errors.As(err, &known) {
		return err
	}
	err = bkerrdefs.WithOp(pkgerrors.WithStack(err), s.Op, s.Meta.Description)
	err = bkerrdefs.WrapVertex(err, s.Digest)
	for _, loc := range s.Locations {
		err = bkerrdefs.WithSource(err, &bkerrdefs.Source{Info: loc.Info, Ranges: loc.Ranges})
	}
	return err
}

func (b *Build) ran(w work, made *cache.Record) {
	if made != nil && b.cfg.Ran != nil {
		b.cfg.Ran(Ran{w.step, w.key, *made, w.lost})
	}
}

// panicked is the error for a panic that was recovered, with its stack.
func panicked(value any) error { return pkgerrors.Errorf("internal error: %v", value) }
