package builder

import (
	"context"
	"time"

	"github.com/containerd/log"
)

const (
	// collectDelay is how long after the start, or a build, a collection begins.
	collectDelay = time.Second
	// collectEvery is how long two collections are apart at least.
	collectEvery = time.Minute
	// collectTimeout bounds one collection.
	collectTimeout = 10 * time.Minute
)

// collect does automatic collections until ctx ends: after the start, and
// after builds.
func (b *Builder) collect(ctx context.Context) {
	defer close(b.collected)
	wait := func(d time.Duration) bool {
		select {
		case <-time.After(d):
			return true
		case <-ctx.Done():
			return false
		}
	}
	for wait(collectDelay) {
		cctx, cancel := context.WithTimeout(ctx, collectTimeout)
		if err := b.Collect(cctx); err != nil && ctx.Err() == nil {
			log.G(ctx).WithError(err).Warn("automatic collection of the cache failed")
		}
		cancel()
		if !wait(collectEvery) {
			return
		}
		select {
		case <-b.built:
		case <-ctx.Done():
			return
		}
	}
}

// builtOne asks for a collection.
func (b *Builder) builtOne() {
	select {
	case b.built <- struct{}{}:
	default:
	}
}
