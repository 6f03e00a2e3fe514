package builder

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/op"
)

// Abort implements schedule.Records.
func (r *records) Abort(id cache.ID, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	var failure *op.Failure
	if errors.As(err, &failure) {
		r.keepFailed(ctx, id, failure.Trees())
	}
	r.deleteLease(ctx, r.lease(id))
}

// keepFailed keeps what a failed run has left until its id is released. Where
// that can't be done the trees are lost, which only those miss who look at them.
func (r *records) keepFailed(ctx context.Context, id cache.ID, trees []*layer.Layer) {
	if len(trees) == 0 {
		return
	}
	lctx, release, err := r.Temporary(ctx)
	if err != nil {
		log.G(ctx).WithError(err).Warn("the trees of a failed step are lost")
		return
	}
	lease, _ := leases.FromContext(lctx)
	for _, l := range trees {
		res := leases.Resource{ID: l.Name, Type: "snapshots/" + r.store.Snapshotter}
		if err := r.store.Leases.AddResource(lctx, leases.Lease{ID: lease}, res); err != nil {
			log.G(ctx).WithError(err).Warnf("the tree %s of a failed step is lost", l.Name)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed[id] = append(r.failed[id], release)
}

// Release implements schedule.Records.
func (r *records) Release(id cache.ID) {
	r.Table.Release(id)
	for _, release := range r.takeFailed(id) {
		release()
	}
}

func (r *records) takeFailed(id cache.ID) []func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	failed := r.failed[id]
	if len(failed) == 0 || r.InUse(id) {
		return nil
	}
	delete(r.failed, id)
	return failed
}
