package builder

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/store"
)

// records keeps the results of steps: what is known about them in a table, and
// what they consist of in containerd, on one lease for each record.
type records struct {
	*cache.Table
	store  *store.Store
	layers *layer.Store
	owner  string

	// leasing: while a record is being removed, none of its id is begun, whose
	// new lease would be deleted in place of the old one.
	leasing sync.RWMutex

	mu     sync.Mutex
	failed map[cache.ID][]func() // give up what failed runs have left
}

var _ schedule.Records = (*records)(nil)

func (r *records) lease(id cache.ID) string { return "kiln/" + r.owner + "/" + string(id) }

// Begin implements schedule.Records.
func (r *records) Begin(ctx context.Context, id cache.ID) (context.Context, error) {
	lease := r.lease(id)
	sctx := r.store.Context(ctx)
	r.leasing.RLock()
	defer r.leasing.RUnlock()
	opts := []leases.Opt{leases.WithID(lease), leases.WithLabels(map[string]string{labelOwner: r.owner, store.LabelPrivate: "true"})}
	_, err := r.store.Leases.Create(sctx, opts...)
	if errdefs.IsAlreadyExists(err) {
		// The record was lost, or what it needs; what is left of it goes.
		if err := r.store.Leases.Delete(sctx, leases.Lease{ID: lease}); err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("lease %s: %w", lease, err)
		}
		_, err = r.store.Leases.Create(sctx, opts...)
	}
	if err != nil {
		return nil, fmt.Errorf("lease %s: %w", lease, err)
	}
	return leases.WithLease(sctx, lease), nil
}

// Commit implements schedule.Records.
func (r *records) Commit(_ context.Context, rec cache.Record, results []schedule.Result, keys ...cache.Key) error {
	for _, res := range results {
		name := ""
		if l, _ := res.(*layer.Layer); l != nil {
			name = l.Name
		}
		rec.Outputs = append(rec.Outputs, name)
	}
	if rec.Kind == "" {
		rec.Kind = cache.Regular
	}
	return r.Put(rec, keys...)
}

// Load implements schedule.Records.
func (r *records) Load(ctx context.Context, id cache.ID) ([]schedule.Result, error) {
	rec, err := r.Get(id)
	if err != nil {
		return nil, err
	}
	results := make([]schedule.Result, len(rec.Outputs))
	for i, name := range rec.Outputs {
		if name == "" {
			continue
		}
		l, err := r.layers.Open(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("record %s: %w", id, err)
		}
		results[i] = l
	}
	return results, nil
}

// Keep implements op.Keeper.
func (r *records) Keep(ctx context.Context, name, description string) (context.Context, func(), error) {
	id := cache.ID(name)
	r.Acquire(id)
	kept, err := r.keep(ctx, id, description)
	if err != nil {
		r.Release(id)
		return nil, nil, err
	}
	return kept, func() { r.Release(id) }, nil
}

func (r *records) keep(ctx context.Context, id cache.ID, description string) (context.Context, error) {
	_, err := r.Get(id)
	if err == nil {
		return leases.WithLease(r.store.Context(ctx), r.lease(id)), nil
	}
	if !errdefs.IsNotFound(err) {
		return nil, err
	}
	lctx, err := r.Begin(ctx, id)
	if err != nil {
		return nil, err
	}
	rec := cache.Record{ID: id, Created: time.Now(), Description: cache.Description{Kind: cache.CacheMount, Text: description}}
	if err := r.Put(rec); err != nil {
		r.Abort(id, err)
		return nil, err
	}
	return lctx, nil
}

// Drop implements op.Keeper.
func (r *records) Drop(ctx context.Context, name string) error {
	err := r.remove(ctx, cache.ID(name))
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}

// remove removes a record and what only it needs.
func (r *records) remove(ctx context.Context, id cache.ID) error {
	rec, err := r.Get(id)
	if err != nil {
		return err
	}
	r.leasing.Lock()
	defer r.leasing.Unlock()
	if err := r.Remove(id); err != nil {
		return err
	}
	if rec.Kind == cache.CacheMount {
		if err := r.discard(ctx, rec); err != nil {
			return err
		}
	}
	err = r.store.Leases.Delete(r.store.Context(ctx), leases.Lease{ID: r.lease(id)})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// discard removes the tree of a cache mount, so that one of the same name that
// is made before the next collection begins empty.
func (r *records) discard(ctx context.Context, rec cache.Record) error {
	err := r.layers.RemoveWorkspace(ctx, string(rec.ID))
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// reconcile removes the leases that have no record, and the records that have
// no lease. It is called before anything runs.
func (r *records) reconcile(ctx context.Context) error {
	ctx = r.store.Context(ctx)
	all, err := r.Brief()
	if err != nil {
		return err
	}
	known := make(map[string]cache.ID, len(all))
	for _, rec := range all {
		known[r.lease(rec.ID)] = rec.ID
	}
	if r.store.Root != "" {
		if err := r.dropMounts(ctx); err != nil {
			return err
		}
	}
	found, err := r.store.Leases.List(ctx, r.store.Marked(labelOwner, r.owner))
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, l := range found {
		if _, ok := known[l.ID]; ok {
			delete(known, l.ID)
			continue
		}
		if err := r.store.Leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("lease %s: %w", l.ID, err)
		}
	}
	for _, id := range known {
		if err := r.Remove(id); err != nil {
			return err
		}
	}
	return nil
}

// dropMounts removes leases of layer stores that are no more: there is only one
// in a containerd of our own, but it may have lost its id.
func (r *records) dropMounts(ctx context.Context) error {
	found, err := r.store.Leases.List(ctx, fmt.Sprintf("labels.%q", layer.LabelStore))
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, l := range found {
		if l.Labels[layer.LabelStore] == r.layers.ID() {
			continue
		}
		if err := r.store.Leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("lease %s: %w", l.ID, err)
		}
	}
	return nil
}
