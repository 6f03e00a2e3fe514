package export

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/log"
)

// LabelExport is on the leases for what is being exported.
const LabelExport = "kiln.build/export"

const (
	// leaseLife is how long the content of an export is kept if the process
	// doesn't live to release it.
	leaseLife = 24 * time.Hour
	// cleanupTime bounds the call that releases it.
	cleanupTime = 10 * time.Second
)

// lease returns a context under which what is made is kept until release, which
// may be called more than once.
func (e *Exporters) lease(ctx context.Context) (_ context.Context, release func(), err error) {
	ctx = e.cfg.Store.Context(ctx)
	l, err := e.cfg.Store.Leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseLife),
		leases.WithLabels(e.cfg.Labels), leases.WithLabel(LabelExport, "true"))
	if err != nil {
		return nil, nil, fmt.Errorf("lease for the export: %w", err)
	}
	release = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if err := e.cfg.Store.Leases.Delete(ctx, l); err != nil {
			log.G(ctx).WithError(err).Warnf("export: the lease %s stays for %s", l.ID, leaseLife)
		}
	})
	return leases.WithLease(ctx, l.ID), release, nil
}
