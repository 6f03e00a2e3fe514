// Package plugin is the daemon's edge: it opens a store and a builder as the
// configuration says, serves them, and takes them down again.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/emulation"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/plugin/bridge"
	"github.com/kiln-build/kiln/plugin/config"
	"github.com/kiln-build/kiln/plugin/control"
	"github.com/kiln-build/kiln/plugin/history"
	"github.com/kiln-build/kiln/plugin/status"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/apicaps"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

func init() {
	// Frontends tell this name to users who need a newer version.
	apicaps.ExportedProduct = "buildkit"
}

// Daemon is an open daemon: what it needs is there, and nothing is served yet.
type Daemon struct {
	cfg       config.Config
	lock      *lock
	snapshots *snapshots // nil: not served
	store     *store.Store
	network   networks // nil: the host's
	runner    *sandbox.Local
	emulators *emulation.Emulators
	users     *idmap.Map // nil: processes have the users that they see
	builder   *builder.Builder
	history   *history.History
	control   *control.Server
	collector *collector
	metrics   *metrics
	grpc      *grpc.Server
	conns     conns
}

// Open opens all that the configuration names. It fails if another daemon has
// the same root.
func Open(ctx context.Context, cfg config.Config, version control.Version) (_ *Daemon, err error) {
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	d := &Daemon{cfg: cfg, metrics: newMetrics()}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close(context.WithoutCancel(ctx)))
		}
	}()
	if d.lock, err = takeLock(cfg.Root); err != nil {
		return nil, err
	}
	of := newClients(cfg)
	if d.snapshots, err = openSnapshots(ctx, cfg, of.registries); err != nil {
		return nil, err
	}
	if d.store, err = openStore(ctx, cfg, d.snapshots, of.registries); err != nil {
		return nil, err
	}
	if d.network, err = openNetwork(ctx, cfg); err != nil {
		return nil, err
	}
	d.emulators = openEmulation(cfg)
	if d.users, err = openUsers(cfg); err != nil {
		return nil, err
	}
	devices, err := openDevices(cfg.CDI)
	if err != nil {
		return nil, err
	}
	if d.runner, err = d.openSandbox(ctx, devices); err != nil {
		return nil, err
	}
	if d.builder, err = d.openBuilder(ctx, devices, of); err != nil {
		return nil, err
	}
	d.history, err = history.Open(history.Config{
		Root:       filepath.Join(cfg.Root, "history"),
		MaxEntries: cfg.History.MaxEntries,
		MaxAge:     cfg.History.MaxAge.Duration,
	})
	if err != nil {
		return nil, err
	}
	d.collector = newCollector(d.builder.Collect)
	d.control = control.New(control.Config{
		Builder:      d.builder,
		Sessions:     of.sessions,
		History:      d.history,
		Entitlements: entitlements(cfg),
		Limits:       status.Limits{Size: cfg.Log.StepSize, Speed: cfg.Log.StepSpeed},
		Version:      version,
		Ended: func(rec *controlapi.BuildHistoryRecord) {
			d.metrics.ended(rec)
			d.collector.trigger()
		},
	})
	d.grpc = newServer(d.control, bridge.New(bridge.ByRef(d.builder.Bridge)), contentService(d.store, d.history), &imageService{store: d.store})
	d.collector.trigger()
	return d, nil
}

// OwnTempMounts has containerd's libraries, for all of this process, mount what
// they unpack below the daemon's root, and removes what is left there of a process
// that was killed meanwhile.
func (d *Daemon) OwnTempMounts(ctx context.Context) error {
	if err := mount.SetTempMountLocation(filepath.Join(d.cfg.Root, "unpacking")); err != nil {
		return fmt.Errorf("directory for temporary mounts: %w", err)
	}
	warnings, err := mount.CleanupTempMounts(unix.MNT_DETACH)
	if err != nil {
		return fmt.Errorf("temporary mounts that are left: %w", err)
	}
	for _, w := range warnings {
		log.G(ctx).WithError(w).Warn("a temporary mount is left")
	}
	return nil
}

// Close ends all builds and closes what Open has opened, in so far as it got.
// Nothing is left mounted.
func (d *Daemon) Close(ctx context.Context) error {
	var errs []error
	if d.control != nil {
		errs = append(errs, d.control.Close(ctx))
	}
	if d.collector != nil {
		d.collector.close()
	}
	if d.grpc != nil {
		d.grpc.Stop()
	}
	if d.history != nil {
		d.history.Close()
	}
	if d.builder != nil {
		errs = append(errs, d.builder.Close(ctx))
	}
	if d.runner != nil {
		errs = append(errs, d.runner.Close())
	}
	if d.emulators != nil {
		d.emulators.Close()
	}
	errs = append(errs, d.users.Close())
	if d.network != nil {
		errs = append(errs, d.network.Close())
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.snapshots != nil {
		errs = append(errs, d.snapshots.close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.release())
	}
	return errors.Join(errs...)
}

// SetLog makes the log of this process what the configuration says.
func SetLog(cfg config.Log) error {
	format := log.TextFormat
	if cfg.Format == "json" {
		format = log.JSONFormat
	}
	return errors.Join(log.SetFormat(format), log.SetLevel(cfg.Level))
}
