package embedded

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// The collector runs when asked, and otherwise only when the store has been
// quiet: collecting stops all writers for a moment.
const (
	quietTime = 5 * time.Second // without changes, before removed things are collected
	maxWait   = time.Minute     // after the first removal
	sweepTime = 10 * time.Minute
)

// collector runs the metadata database's garbage collection.
type collector struct {
	db     *metadata.DB
	cancel context.CancelFunc
	done   chan struct{}
	// changed tells that the database changed; true when something was removed.
	changed chan bool
	run     chan chan error
}

func startCollector(ctx context.Context, db *metadata.DB) *collector {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &collector{
		db: db, cancel: cancel,
		done:    make(chan struct{}),
		changed: make(chan bool, 64),
		run:     make(chan chan error),
	}
	db.RegisterMutationCallback(func(dirty bool) {
		select {
		case c.changed <- dirty:
		default: // the loop is busy and will see the others
		}
	})
	go c.loop(ctx)
	return c
}

// collect returns when a collection that began after the call is over.
func (c *collector) collect(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	result := make(chan error, 1)
	select {
	case c.run <- result:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.done:
		return fmt.Errorf("the store is closed: %w", errdefs.ErrUnavailable)
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *collector) stop() error {
	c.cancel()
	<-c.done
	return nil
}

func (c *collector) loop(ctx context.Context) {
	defer close(c.done)
	var (
		quiet, late <-chan time.Time // set while something removed waits
		sweep       = time.NewTicker(sweepTime)
		stale       = true // what a killed process left
	)
	defer sweep.Stop()
	collect := func(ctx context.Context) error {
		quiet, late, stale = nil, nil, false
		_, err := c.db.GarbageCollect(ctx)
		return err
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case dirty := <-c.changed:
			stale = true
			if dirty && late == nil {
				late = time.After(maxWait)
			}
			if late != nil {
				quiet = time.After(quietTime)
			}
		case result := <-c.run:
			result <- collect(ctx)
		case <-quiet:
			err = collect(ctx)
		case <-late:
			err = collect(ctx)
		case <-sweep.C:
			if stale {
				err = collect(ctx)
			}
		}
		if err != nil && ctx.Err() == nil {
			log.G(ctx).WithError(err).Warn("collect what nothing refers to")
		}
	}
}

// leaseManager collects at once where a deletion asks for it, as containerd's
// service does.
type leaseManager struct {
	leases.Manager
	gc *collector
}

func (m leaseManager) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	var o leases.DeleteOptions
	for _, opt := range opts {
		if err := opt(ctx, &o); err != nil {
			return err
		}
	}
	if err := m.Manager.Delete(ctx, l); err != nil {
		return err
	}
	if o.Synchronous {
		return m.gc.collect(ctx)
	}
	return nil
}

// imageStore does so too.
type imageStore struct {
	images.Store
	gc *collector
}

func (s imageStore) Delete(ctx context.Context, name string, opts ...images.DeleteOpt) error {
	var o images.DeleteOptions
	for _, opt := range opts {
		if err := opt(ctx, &o); err != nil {
			return err
		}
	}
	if err := s.Store.Delete(ctx, name, opts...); err != nil {
		return err
	}
	if o.Synchronous {
		return s.gc.collect(ctx)
	}
	return nil
}
