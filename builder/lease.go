package builder

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// labelOwner is on all leases of one root directory, so that several builders
// can share a namespace of containerd.
const labelOwner = "kiln.build/owner"

// cleanupTimeout bounds what is done after a build's context has ended.
const cleanupTimeout = 30 * time.Second

// Temporary returns a context under which what is made is kept until release,
// or until the process has ended.
func (r *records) Temporary(ctx context.Context) (_ context.Context, release func(), _ error) {
	lease := "kiln/" + r.owner + "/temporary/" + strings.ToLower(rand.Text())
	sctx := r.store.Context(ctx)
	_, err := r.store.Leases.Create(sctx, leases.WithID(lease), leases.WithLabels(map[string]string{labelOwner: r.owner}))
	if err != nil {
		return nil, nil, fmt.Errorf("lease %s: %w", lease, err)
	}
	return leases.WithLease(sctx, lease), func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		r.deleteLease(ctx, lease)
	}, nil
}

// deleteLease deletes a lease, now or, where that can't be done, at the next
// start.
func (r *records) deleteLease(ctx context.Context, lease string) {
	err := r.store.Leases.Delete(r.store.Context(ctx), leases.Lease{ID: lease})
	if err != nil && !errdefs.IsNotFound(err) {
		log.G(ctx).WithError(err).Warnf("lease %s is left", lease)
	}
}
