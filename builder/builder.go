// Package builder builds: it takes requests, lets a frontend make graphs of
// them, has the scheduler make the results, and exports these. It holds the
// parts together and decides nothing that one of them could.
package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/export"
	"github.com/kiln-build/kiln/builder/frontend"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/op"
	"github.com/kiln-build/kiln/builder/policy"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/device"
	"github.com/kiln-build/kiln/builder/sandbox/emulation"
	"github.com/kiln-build/kiln/builder/sandbox/proxy"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/source"
	"github.com/kiln-build/kiln/builder/store"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Config is what a builder is made of.
type Config struct {
	// Root is the builder's own directory.
	Root  string
	Store *store.Store
	// Images is where built images get names; nil: they get none.
	Images images.Store
	// UnnamedImages: images that are built without a name are kept there too.
	UnnamedImages bool
	Runner        sandbox.Runner
	Sessions      *session.Manager
	// Registries are where images come from and go to.
	Registries *registry.Registries
	// Entitlements may be granted to builds.
	Entitlements []string
	// Devices are those that builds may ask for; nil is none.
	Devices *device.Devices
	// Labels and Platforms describe the worker; the first platform is the
	// default.
	Labels    map[string]string
	Platforms []ocispec.Platform
	// Emulation runs steps of other platforms. Those that it finds are the worker's
	// too, unless FixedPlatforms.
	Emulation      *emulation.Emulators
	FixedPlatforms bool
	// Users are those of sandboxed steps on the host; nil are the same.
	Users *idmap.Map
	// MaxParallelism bounds how many processes run at once; 0: no bound.
	MaxParallelism int
	CgroupParent   string
	// Limits hold for every process.
	Limits sandbox.Resources
	// ProxyNetwork: all builds reach networks through proxies, not only those that ask
	// for that.
	ProxyNetwork bool
	// Policies are what Collect removes; Ceiling holds at all times.
	Policies  []cache.Policy
	Ceiling   Ceiling
	Frontends map[string]frontend.Func
}

// Builder builds. It is safe for concurrent use.
type Builder struct {
	cfg       Config
	id        string
	layers    *layer.Store
	records   *records
	scheduler *schedule.Scheduler
	sources   *source.Sources
	exporters *export.Exporters
	exec      *op.ExecConfig
	guard     *guard // nil: there is no ceiling
	fileSlots limit
	execSlots limit // nil: as many as the admission lets in
	admission *admission

	pruning sync.Mutex // one prune at a time

	mu     sync.Mutex
	builds map[string]running // by ref
	// changed is closed and replaced whenever a build begins.
	changed chan struct{}
}

// Open opens the builder whose directory is cfg.Root. What an earlier process
// left unfinished there is removed. The store stays the caller's; it must be
// closed after the builder.
func Open(ctx context.Context, cfg Config) (_ *Builder, err error) {
	b := &Builder{
		cfg: cfg, fileSlots: make(limit, fileSteps), admission: newAdmission(),
		builds: map[string]running{}, changed: make(chan struct{}),
	}
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range undo {
				f()
			}
		}
	}()
	if b.id, err = store.Identity(filepath.Join(cfg.Root, "workerid")); err != nil {
		return nil, err
	}
	if err := cfg.Users.Admit(cfg.Root); err != nil {
		return nil, err
	}
	if b.layers, err = layer.New(ctx, cfg.Store, layer.Config{Root: filepath.Join(cfg.Root, "layers"), Users: cfg.Users}); err != nil {
		return nil, err
	}
	undo = append(undo, func() { b.layers.Close(context.WithoutCancel(ctx)) })
	table, err := cache.Open(filepath.Join(cfg.Root, "cache.db"))
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() { table.Close() })
	b.records = &records{Table: table, store: cfg.Store, layers: b.layers, owner: b.id, failed: map[cache.ID][]func(){}}
	if err = b.records.reconcile(ctx); err != nil {
		return nil, err
	}
	if err = b.makeOps(ctx); err != nil {
		return nil, err
	}
	b.scheduler = schedule.New(b.records)
	if cfg.Ceiling != (Ceiling{}) {
		b.guard = newGuard(b, cfg.Ceiling)
	}
	return b, nil
}

// emptyDir makes a directory, or takes from it what a killed process has left there,
// mounts first.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := mount.UnmountRecursive(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount what is left below %s: %w", dir, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// makeOps makes what the steps and the exporters stand on.
func (b *Builder) makeOps(ctx context.Context) (err error) {
	dir := filepath.Join(b.cfg.Root, "run")
	if err := emptyDir(dir); err != nil {
		return err
	}
	b.exec = &op.ExecConfig{
		Layers: b.layers, Runner: b.cfg.Runner, Sessions: b.cfg.Sessions,
		Caches: op.NewCacheMounts(b.layers, b.records), Dir: dir, CgroupParent: b.cfg.CgroupParent,
		Limits: b.cfg.Limits, Emulation: b.cfg.Emulation, Users: b.cfg.Users,
	}
	if n := b.cfg.MaxParallelism; n > 0 {
		b.execSlots = make(limit, n)
	}
	b.sources, err = source.New(ctx, source.Config{
		Root: b.cfg.Root, Store: b.cfg.Store, Layers: b.layers, Sessions: b.cfg.Sessions,
		Registries: b.cfg.Registries, Platform: b.cfg.Platforms[0],
	})
	if err != nil {
		return err
	}
	b.exporters = export.New(export.Config{
		Layers: b.layers, Store: b.cfg.Store, Images: b.cfg.Images, Unnamed: b.cfg.UnnamedImages, Sessions: b.cfg.Sessions,
		Registry: pushRegistry{b.cfg.Registries}, Labels: map[string]string{labelOwner: b.id}, Fetch: b.sources.Images.Fetch,
	})
	return nil
}

// Close ends all builds, waits for them, and leaves nothing mounted.
func (b *Builder) Close(ctx context.Context) error {
	b.scheduler.Close()
	return errors.Join(b.layers.Close(ctx), b.records.Close())
}

// ops makes the ops of one build's steps.
type ops struct {
	b       *Builder
	granted permissions
	policy  *policy.Policy
	proxies *proxy.Authority // nil: networks are no proxies
	begun   time.Time
	blobs   *preparation
	// outer are the steps that made the definition which is built, one inside
	// the other.
	outer []digest.Digest
}

// Op implements schedule.Ops.
func (o ops) Op(s *graph.Step) (schedule.Op, error) {
	devices, err := o.granted.use(s.Op)
	if err != nil {
		return nil, err
	}
	switch {
	case s.Op.GetSource() != nil:
		op, err := o.b.sources.Op(s)
		if err != nil {
			return nil, err
		}
		return o.b.guard.wrap(s, o.begun, op), nil
	case s.Op.GetExec() != nil:
		exec := o.b.execSlots.wrap(op.NewExec(o.b.exec, s, op.ExecGrants{
			Devices: devices, Proxies: o.proxies, Policy: string(o.policy.Digest()),
		}))
		return o.b.admission.wrap(o.b.guard.wrap(s, o.begun, o.blobs.wrap(s, exec))), nil
	case s.Op.GetFile() != nil:
		return o.b.fileSlots.wrap(o.b.guard.wrap(s, o.begun, o.blobs.wrap(s, op.NewFile(o.b.layers, s)))), nil
	case s.Op.GetPassthrough() != nil:
		return op.NewPassthrough(s), nil
	case s.Op.GetBuild() != nil:
		return op.NewBuild(o.b.layers, s, o.nested(s)), nil
	}
	return nil, fmt.Errorf("the operation %q is not supported by this builder", s.Meta.Name)
}
