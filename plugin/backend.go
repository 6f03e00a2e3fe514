package plugin

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/embedded"
	"github.com/kiln-build/kiln/builder/store/host"
	"github.com/kiln-build/kiln/builder/store/private"
	"github.com/kiln-build/kiln/plugin/config"
	"github.com/kiln-build/kiln/snapshotter/lazy"
)

// openStore opens the backend that is configured. sn may be nil.
func openStore(ctx context.Context, cfg config.Config, sn *snapshots, regs *registry.Registries) (*store.Store, error) {
	switch cfg.Backend {
	case config.BackendHost:
		st, err := waitForHost(ctx, cfg, sn)
		if err != nil {
			return nil, fmt.Errorf("%w; start containerd, set containerd.address, or use backend embedded", err)
		}
		return st, nil
	case config.BackendAuto:
		st, err := openHost(ctx, cfg, sn)
		if err == nil {
			return st, nil
		}
		if !errdefs.IsUnavailable(err) {
			return nil, fmt.Errorf("%w; to do without the host's containerd use backend embedded", err)
		}
		log.G(ctx).Infof("no containerd on %s, using an embedded one", cfg.Containerd.Address)
	}
	return openEmbedded(ctx, cfg, regs)
}

// openEmbedded opens the store below the daemon's root. Closing it makes it
// outlast a restart of the machine.
func openEmbedded(ctx context.Context, cfg config.Config, regs *registry.Registries) (*store.Store, error) {
	c := embedded.Config{
		Root:        filepath.Join(cfg.Root, "containerd"),
		Namespace:   cfg.Containerd.Namespace,
		Snapshotter: cfg.Snapshotter,
	}
	var shown *lazy.Filesystem
	if !cfg.Sandbox.Rootless { // it takes rights that those daemons don't have
		var err error
		if shown, err = openLazy(ctx, cfg, cfg.Root, regs); err != nil {
			log.G(ctx).WithError(err).Warn("no layers are pulled lazily")
		}
	}
	if shown != nil {
		c.Lazy = shown
	}
	st, err := embedded.Open(ctx, c)
	if err != nil {
		return nil, errors.Join(err, shown.Close())
	}
	end := st.Close
	st.Close = func() error {
		if err := errors.Join(end(), shown.Close()); err != nil {
			return err
		}
		return embedded.MarkClean(c.Root)
	}
	return st, nil
}

// retryTime is how often a containerd is looked for that was started after us.
const retryTime = 200 * time.Millisecond

// waitForHost opens the host's containerd. A plugin of containerd's, which we
// are with snapshots to serve, may be started before it, and waits.
func waitForHost(ctx context.Context, cfg config.Config, sn *snapshots) (*store.Store, error) {
	st, err := openHost(ctx, cfg, sn)
	if sn == nil || !errdefs.IsUnavailable(err) {
		return st, err
	}
	log.G(ctx).Infof("waiting for containerd on %s", cfg.Containerd.Address)
	for errdefs.IsUnavailable(err) {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(retryTime):
		}
		st, err = openHost(ctx, cfg, sn)
	}
	return st, err
}

func openHost(ctx context.Context, cfg config.Config, sn *snapshots) (*store.Store, error) {
	st, err := host.Open(ctx, host.Config{
		Address:     cfg.Containerd.Address,
		Namespace:   cfg.Containerd.Namespace,
		Snapshotter: cfg.Snapshotter,
	})
	if err != nil || sn == nil {
		return st, err
	}
	ours, err := sn.reached(ctx, st)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	root := filepath.Join(cfg.Root, "private")
	if !ours {
		if err := private.Clear(ctx, st, sn.Snapshotter, root); err != nil {
			return nil, errors.Join(err, st.Close())
		}
		return st, nil
	}
	wrapped, err := private.Wrap(ctx, st, sn.Snapshotter, root)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return wrapped, nil
}
