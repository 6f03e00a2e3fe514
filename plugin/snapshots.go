package plugin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	containerdsnapshots "github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/plugin/config"
	"github.com/kiln-build/kiln/snapshotter"
	"github.com/kiln-build/kiln/snapshotter/lazy"
	"google.golang.org/grpc"
)

// snapshots is kiln's snapshotter, served to containerd.
type snapshots struct {
	*snapshotter.Snapshotter
	lazy   *lazy.Filesystem // nil: nothing is pulled lazily
	server *grpc.Server
	ended  chan error
}

// openSnapshots serves the snapshotter, if it is to be: from now on, since the
// engine reaches it through containerd. It returns nil if not.
func openSnapshots(ctx context.Context, cfg config.Config, regs *registry.Registries) (*snapshots, error) {
	if !cfg.Snapshots.Enabled {
		return nil, nil
	}
	root := cfg.Snapshots.Root
	if root == "" {
		root = filepath.Join(cfg.Root, "snapshots")
	}
	shown, err := openLazy(ctx, cfg, root, regs)
	if err != nil {
		return nil, err
	}
	c := snapshotter.Config{Root: root}
	if shown != nil {
		c.Lazy = shown
	}
	sn, err := snapshotter.Open(ctx, c)
	if err != nil {
		return nil, errors.Join(err, shown.Close())
	}
	l, err := listenUnix(cfg.Snapshots.Address, "", "")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("snapshots.address %s: %w", cfg.Snapshots.Address, err), sn.Close(), shown.Close())
	}
	s := &snapshots{Snapshotter: sn, lazy: shown, server: snapshotter.NewServer(sn), ended: make(chan error, 1)}
	go func() { s.ended <- s.server.Serve(l) }()
	log.G(ctx).Infof("serving snapshots on %s", describe(l))
	return s, nil
}

// reachTime is how long containerd may take to notice that the snapshotter is
// there again; it tries every 3 seconds at least.
const reachTime = 20 * time.Second

// reached returns once containerd reaches the snapshotter that the store uses, and
// says whether that is this one. After a restart of ours it may not do so yet, and
// calls would fail.
func (s *snapshots) reached(ctx context.Context, st *store.Store) (ours bool, _ error) {
	ctx, cancel := context.WithTimeout(st.Context(ctx), reachTime)
	defer cancel()
	key := "kiln-probe-" + rand.Text()
	for {
		_, err := st.Snapshots.View(ctx, key, "", containerdsnapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"}))
		if err == nil {
			ours = s.Knows(st.Namespace, key)
			if err = st.Snapshots.Remove(ctx, key); errdefs.IsNotFound(err) { // collected
				err = nil
			}
			return ours, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryTime):
			if errdefs.IsUnavailable(err) {
				continue
			}
		}
		// Not that containerd were unavailable, which would be waited for.
		return false, fmt.Errorf("containerd on %s can't use snapshotter %s, look at [proxy_plugins] in its configuration: %s: %w", st.Host.Address, st.Snapshotter, err.Error(), errdefs.ErrFailedPrecondition)
	}
}

// close ends the calls under way and closes the snapshotter.
func (s *snapshots) close() error {
	s.server.Stop()
	return errors.Join(<-s.ended, s.Close(), s.lazy.Close())
}
