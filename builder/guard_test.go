package builder

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-build/kiln/builder/cache"
)

// pool is a disk of 1000 bytes of which the builder has used so many: by steps, and
// by what can be removed.
type pool struct {
	steps, removable, relieved atomic.Int64
	others                     int // older builds that run
	measured                   atomic.Int64
}

func (p *pool) used() int64 { return p.steps.Load() + p.removable.Load() }

func (p *pool) guard(c Ceiling) *guard {
	return &guard{
		ceiling: c,
		disk:    func() cache.Disk { return cache.Disk{Total: 1000, Free: 1000 - p.used()} },
		atMost:  func() int64 { return 500 + p.used() }, // others use the rest
		measure: func(context.Context) (int64, error) { p.measured.Add(1); return p.used(), nil },
		written: func(_ context.Context, lease string) (int64, error) { return p.steps.Load(), nil },
		relieve: func(context.Context, Ceiling) error {
			p.relieved.Add(1)
			p.removable.Store(0)
			return nil
		},
		older: func(time.Time) bool { return p.others > 0 },
		steps: map[*guarded]struct{}{}, ended: make(chan struct{}),
	}
}

// TestGuardFailsWhatWrites: what can be removed is removed first, and then the step
// that writes is stopped, soon.
func TestGuardFailsWhatWrites(t *testing.T) {
	for name, c := range map[string]struct {
		ceiling Ceiling
		want    string
	}{
		"a maximum": {Ceiling{MaxUsed: 100}, "120B of at most 100B (maxUsedSpace) are used, 120B of it by step \"writes\""},
		"a minimum": {Ceiling{MinFree: 900}, "880B are free on the disk, less than 900B"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &pool{}
				p.removable.Store(50)
				g := p.guard(c.ceiling)
				ctx, leave, err := g.enter(t.Context(), "writes", time.Now())
				if err != nil {
					t.Fatal(err)
				}
				p.steps.Store(70)
				time.Sleep(2 * lookEvery)
				if p.removable.Load() != 0 || ctx.Err() != nil {
					t.Errorf("%d bytes are left that nobody uses, %v", p.removable.Load(), ctx.Err())
				}
				p.steps.Store(120)
				time.Sleep(2 * lookEvery)
				var full *CeilingError
				if err := context.Cause(ctx); !errors.As(err, &full) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("the step's context has ended with %v", err)
				}
				leave()
				time.Sleep(2 * lookEvery) // the watcher ends
			})
		})
	}
}

// TestGuardRemovesInTime: before the ceiling is reached room is made, and if there is
// none to make the step goes on, and the measuring doesn't.
func TestGuardRemovesInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pool{}
		g := p.guard(Ceiling{MaxUsed: 100})
		ctx, leave, err := g.enter(t.Context(), "writes", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		p.steps.Store(97)
		time.Sleep(measureEvery / 2)
		if p.relieved.Load() != 1 || ctx.Err() != nil {
			t.Errorf("room was made %d times, %v", p.relieved.Load(), ctx.Err())
		}
		leave()
		time.Sleep(2 * lookEvery)
	})
}

// TestGuardMeasuresNothingInVain: while all that is used of the disk would be allowed
// nothing is measured, and what is written beyond that is found.
func TestGuardMeasuresNothingInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pool{}
		g := p.guard(Ceiling{MaxUsed: 600, MinFree: 10})
		ctx, leave, err := g.enter(t.Context(), "writes", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		p.steps.Store(60)
		time.Sleep(2 * measureEvery)
		if n := p.measured.Load(); n > 0 {
			t.Errorf("measured %d times", n)
		}
		p.steps.Store(610)
		time.Sleep(2 * lookEvery)
		var full *CeilingError
		if !errors.As(context.Cause(ctx), &full) {
			t.Errorf("the step's context has ended with %v", context.Cause(ctx))
		}
		leave()
		time.Sleep(2 * lookEvery) // the watcher ends
	})
}

// TestGuardWaits: a step waits for room while others may make some, and not for ever.
func TestGuardWaits(t *testing.T) {
	for name, c := range map[string]struct {
		others  int
		room    time.Duration // when others make room; 0: never
		took    time.Duration
		refused bool
	}{
		"nobody else":        {refused: true},
		"another ends":       {others: 1, room: 10 * time.Second, took: 10 * time.Second},
		"another ends late":  {others: 1, room: 2 * waitForRoom, took: waitForRoom, refused: true},
		"another never ends": {others: 1, took: waitForRoom, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &pool{others: c.others}
				p.steps.Store(110)
				g := p.guard(Ceiling{MaxUsed: 100})
				if c.room > 0 {
					time.AfterFunc(c.room, func() {
						p.steps.Store(0)
						g.changed()
					})
				}
				begun := time.Now()
				_, leave, err := g.enter(t.Context(), "waits", time.Now())
				if took := time.Since(begun); took != c.took || (err != nil) != c.refused {
					t.Errorf("%v after %v", err, took)
				}
				if err == nil {
					leave()
				}
				time.Sleep(2 * c.room)
			})
		})
	}
}
