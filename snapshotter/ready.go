package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// limits are how long a lazy filesystem may take.
type limits struct{ mount, check, unmount time.Duration }

var defaultLimits = limits{mount: 30 * time.Second, check: 30 * time.Second, unmount: 10 * time.Second}

// ready sees to it that n and all below it can be read: a lazy directory whose
// server has gone is shown anew. n is pinned.
func (d *disk) ready(ctx context.Context, n *node) error {
	d.mu.RLock()
	chain := n.chain()
	d.mu.RUnlock()
	var wg sync.WaitGroup
	errs := make([]error, len(chain))
	for i, n := range chain {
		if n.lazy != nil {
			wg.Go(func() { errs[i] = d.revive(ctx, n) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// revive checks a lazy directory, and mounts it again if need be.
func (d *disk) revive(ctx context.Context, n *node) error {
	if d.lazy == nil {
		return fmt.Errorf("directory %s was pulled lazily, which is switched off: switch it on, or remove the image and pull it again: %w", n.id, errdefs.ErrFailedPrecondition)
	}
	n.mounting.Lock()
	defer n.mounting.Unlock()
	if err := context.Cause(ctx); err != nil { // others took too long
		return fmt.Errorf("lazy directory %s is being looked after: %w", n.id, err)
	}
	stale := d.call(ctx, d.limits.check, func(ctx context.Context) error { return d.lazy.Check(ctx, d.fs(n), n.lazy) })
	if stale == nil {
		return nil
	}
	if err := context.Cause(ctx); err != nil {
		// Nothing is known of the directory, which others may use.
		return fmt.Errorf("lazy directory %s: %w", n.id, err)
	}
	if errdefs.IsUnavailable(stale) {
		return fmt.Errorf("lazy directory %s can't be read, is the registry there?: %w", n.id, stale)
	}
	log.G(ctx).WithError(stale).Infof("lazy directory %s doesn't answer and is mounted again", n.id)
	err := d.call(ctx, d.limits.unmount, func(ctx context.Context) error { return d.lazy.Unmount(ctx, d.fs(n)) })
	if err == nil {
		err = detach(d.fs(n))
	}
	if err == nil {
		err = d.call(ctx, d.limits.mount, func(ctx context.Context) error { return d.lazy.Mount(ctx, d.fs(n), n.lazy) })
	}
	if err != nil {
		return fmt.Errorf("lazy directory %s can't be read (%w) nor mounted again, is the registry there?: %w: %w", n.id, stale, err, errdefs.ErrUnavailable)
	}
	return nil
}

// call ends when fn does or the time is over, whichever is first. What is late
// goes on for itself.
func (d *disk) call(ctx context.Context, limit time.Duration, fn func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- fn(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		select { // it may have ended by itself
		case err := <-done:
			return err
		default:
			return fmt.Errorf("no answer: %w", context.Cause(ctx))
		}
	}
}
