package builder

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/cache"
)

// The guard looks at the disk this often while something is written, at how much of
// it is free, which costs next to nothing. Measuring what the builder has is dear:
// it is done when the free space says that it may be too much, or after
// measureEvery, and not at all while everything on the disk together isn't.
const (
	lookEvery    = 20 * time.Millisecond
	measureEvery = 15 * time.Second
	forever      = 100 * 365 * 24 * time.Hour
)

// waitForRoom is how long a step that is to begin waits for others to end when
// there is no room.
const waitForRoom = time.Minute

// guard holds the ceiling while steps write.
type guard struct {
	ceiling Ceiling
	disk    func() cache.Disk
	atMost  func() int64                                           // what the builder can have, as far as the disk tells
	measure func(context.Context) (int64, error)                   // what the builder has
	written func(ctx context.Context, lease string) (int64, error) // what a step has
	relieve func(ctx context.Context, c Ceiling) error             // removes what nobody uses
	older   func(begun time.Time) bool                             // whether an older build runs

	measuring sync.Mutex // one looks at a time, and makes room

	mu      sync.Mutex
	steps   map[*guarded]struct{}
	ended   chan struct{} // closed and replaced when a step has ended
	watched bool          // a watcher runs; it ends when it finds no step
	looked  time.Time     // when it was last measured
	used    int64         // at that time
	free    int64         // at that time
}

// guarded is a step that writes.
type guarded struct {
	name  string
	lease string
	fail  context.CancelCauseFunc
}

func newGuard(b *Builder, c Ceiling) *guard {
	return &guard{
		ceiling: c, disk: b.disk, atMost: b.atMost, measure: b.used, written: b.written, relieve: b.relieve, older: b.older,
		steps: map[*guarded]struct{}{}, ended: make(chan struct{}),
	}
}

// enter waits until there is room for the step, of a build that began then, and
// joins.
func (g *guard) enter(ctx context.Context, name string, begun time.Time) (_ context.Context, leave func(), _ error) {
	if g == nil {
		return ctx, func() {}, nil
	}
	if err := g.wait(ctx, name, begun); err != nil {
		return nil, nil, err
	}
	ctx, leave = g.join(ctx, name)
	return ctx, leave, nil
}

// join gives a context for what writes that ends, with a CeilingError as its
// cause, when there is too little room. leave must be called when the writing
// has ended, and may be long before ctx does.
func (g *guard) join(ctx context.Context, name string) (_ context.Context, leave func()) {
	if g == nil {
		return ctx, func() {}
	}
	lease, _ := leases.FromContext(ctx)
	ctx, fail := context.WithCancelCause(ctx)
	s := &guarded{name: name, lease: lease, fail: fail}
	g.mu.Lock()
	g.steps[s] = struct{}{}
	if !g.watched {
		g.watched = true
		go g.watch(context.WithoutCancel(ctx))
	}
	g.mu.Unlock()
	return ctx, func() {
		g.mu.Lock()
		delete(g.steps, s)
		g.mu.Unlock()
		g.changed()
	}
}

// changed tells those who wait that there may be more room.
func (g *guard) changed() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.ended)
	g.ended = make(chan struct{})
}

// wait returns when there is room, or that there is none although nothing runs
// that could make some: a step, or a build that is older. Those make room by their
// end; if builds waited for younger ones too they would wait for each other. While
// others run there has to be some room to spare.
func (g *guard) wait(ctx context.Context, name string, begun time.Time) error {
	timeout := time.NewTimer(waitForRoom)
	defer timeout.Stop()
	for late := false; ; {
		g.mu.Lock()
		ended, others := g.ended, len(g.steps) > 0
		g.mu.Unlock()
		c := g.ceiling
		hope := !late && (others || g.older(begun))
		if hope {
			c = c.lowered()
		}
		full, err := g.full(ctx, c, forever)
		if err != nil || full == nil {
			return err
		}
		if full.Step = name; !hope {
			return full
		}
		select {
		case <-ended:
		case <-timeout.C:
			late = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// watch removes what nobody uses in time, before the ceiling is reached, but doesn't
// try so again and again. Whenever the ceiling does not hold nevertheless, it fails
// the step that has written the most, and waits for that step's end. It goes on
// while there are steps: they may come and go faster than the disk is measured.
func (g *guard) watch(ctx context.Context) {
	wait := lookEvery
	var tried time.Time
	for {
		time.Sleep(wait)
		wait = lookEvery
		if g.unwatched() {
			return
		}
		c := g.ceiling
		if time.Since(tried) > measureEvery {
			c = c.lowered()
		}
		full, err := g.full(ctx, c, measureEvery)
		if g.unwatched() {
			return
		}
		if err != nil {
			log.G(ctx).WithError(err).Warn("what the builder uses of the disk can't be measured")
			wait = measureEvery
			continue
		}
		if full == nil {
			continue
		}
		if g.ceiling.holds(full.Used, full.Free) {
			tried = time.Now()
			continue
		}
		g.mu.Lock()
		ended := g.ended
		g.mu.Unlock()
		if !g.failLargest(ctx, full) {
			continue
		}
		<-ended
	}
}

// unwatched ends the watcher where no step runs.
func (g *guard) unwatched() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watched = len(g.steps) > 0
	return !g.watched
}

func (g *guard) failLargest(ctx context.Context, full *CeilingError) bool {
	g.mu.Lock()
	steps := make([]*guarded, 0, len(g.steps))
	for s := range g.steps {
		steps = append(steps, s)
	}
	g.mu.Unlock()
	var largest *guarded
	for _, s := range steps {
		n, err := g.written(ctx, s.lease)
		if err != nil {
			log.G(ctx).WithError(err).Warnf("what step %q has written can't be measured", s.name)
		}
		if largest == nil || n > full.Written {
			largest, full.Step, full.Written = s, s.name, n
		}
	}
	if largest == nil {
		return false
	}
	largest.fail(full)
	return true
}

// full tells how a ceiling is exceeded after all that can be removed was; nil
// where it holds. A measurement that is older than maxAge isn't relied on.
func (g *guard) full(ctx context.Context, c Ceiling, maxAge time.Duration) (*CeilingError, error) {
	if g.plausible(c, maxAge) {
		return nil, nil
	}
	g.measuring.Lock()
	defer g.measuring.Unlock()
	if g.plausible(c, maxAge) {
		return nil, nil // somebody else has measured meanwhile
	}
	e, err := g.look(ctx, c)
	if e == nil || err != nil {
		return nil, err
	}
	if err := g.relieve(ctx, c); err != nil {
		return nil, err
	}
	return g.look(ctx, c)
}

// plausible says whether a ceiling holds if all that is on the disk is the
// builder's, or all that was written to it since the last measurement.
func (g *guard) plausible(c Ceiling, maxAge time.Duration) bool {
	free := g.disk().Free
	if c.holds(g.atMost(), free) {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Since(g.looked) <= maxAge && c.holds(g.used+max(0, g.free-free), free)
}

// look measures.
func (g *guard) look(ctx context.Context, c Ceiling) (*CeilingError, error) {
	free := g.disk().Free
	used, err := g.measure(ctx)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.used, g.free, g.looked = used, free, time.Now()
	g.mu.Unlock()
	if c.holds(used, free) {
		return nil, nil
	}
	return &CeilingError{Ceiling: g.ceiling, Used: used, Free: free}, nil
}
