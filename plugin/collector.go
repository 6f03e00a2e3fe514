package plugin

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/containerd/log"
)

// collectAfter is how long after a build garbage is collected, so that builds
// that follow each other are not slowed down; collectEvery is the least time
// between two collections.
const (
	collectAfter = time.Second
	collectEvery = time.Minute
)

// collector collects garbage in the background when it is triggered: on disk, and
// then in memory.
type collector struct {
	wanted chan struct{} // holds one element
	cancel context.CancelFunc
	done   chan struct{}
}

func newCollector(collect func(context.Context) error) *collector {
	ctx, cancel := context.WithCancel(context.Background())
	c := &collector{wanted: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for c.wait(ctx) && sleep(ctx, collectAfter) {
			if err := collect(ctx); err != nil && ctx.Err() == nil {
				log.G(ctx).WithError(err).Warn("garbage collection failed")
			}
			debug.FreeOSMemory() // what builds needed, others may
			sleep(ctx, collectEvery)
		}
	}()
	return c
}

func (c *collector) trigger() {
	select {
	case c.wanted <- struct{}{}:
	default:
	}
}

func (c *collector) wait(ctx context.Context) bool {
	select {
	case <-c.wanted:
		return true
	case <-ctx.Done():
		return false
	}
}

// close stops a collection that runs and waits for its end.
func (c *collector) close() {
	c.cancel()
	<-c.done
}

// sleep says whether it was not interrupted.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
