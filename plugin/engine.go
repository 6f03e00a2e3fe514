package plugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/frontend"
	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/device"
	"github.com/kiln-build/kiln/builder/sandbox/emulation"
	"github.com/kiln-build/kiln/builder/sandbox/meter"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/plugin/config"
	"golang.org/x/sys/unix"
)

// clients are those of builds, and what they give access to.
type clients struct {
	sessions   *session.Manager
	registries *registry.Registries
}

func newClients(cfg config.Config) clients {
	m := session.NewManager()
	return clients{sessions: m, registries: registry.New(registries(cfg), m)}
}

// openBuilder puts a builder on the store and the runner. devices are those of the
// runner.
func (d *Daemon) openBuilder(ctx context.Context, devices *device.Devices, of clients) (*builder.Builder, error) {
	cfg, st := d.cfg, d.store
	platforms, err := workerPlatforms(cfg.Platforms)
	if err != nil {
		return nil, err
	}
	limits, err := sandboxLimits(cfg.Sandbox.Limits)
	if err != nil {
		return nil, err
	}
	disk := diskSize(cfg.Root)
	return builder.Open(ctx, builder.Config{
		Root:           cfg.Root,
		Store:          st,
		Images:         namedImages(cfg, st),
		UnnamedImages:  st.Host != nil,
		Runner:         d.runner,
		Sessions:       of.sessions,
		Registries:     of.registries,
		Entitlements:   entitlements(cfg),
		Devices:        devices,
		Labels:         workerLabels(cfg, st, d.network),
		Platforms:      platforms,
		FixedPlatforms: len(cfg.Platforms) > 0,
		Emulation:      d.emulators,
		Users:          d.users,
		MaxParallelism: cfg.Sandbox.MaxParallelism,
		CgroupParent:   cfg.Sandbox.CgroupParent,
		Limits:         limits,
		ProxyNetwork:   cfg.Network.Proxy,
		Policies:       policies(cfg.GC, disk),
		Ceiling:        ceiling(cfg.GC, disk),
		Frontends:      frontends(cfg),
	})
}

// openEmulation finds nothing yet.
func openEmulation(cfg config.Config) *emulation.Emulators {
	c := emulation.Config{MaxAge: cfg.PlatformsMaxAge.Duration, Register: emulation.InNewNamespace}
	if cfg.Sandbox.Rootless {
		c.Register = emulation.InOwnNamespace
	}
	return emulation.New(c)
}

// openUsers is nil where users aren't remapped.
func openUsers(cfg config.Config) (*idmap.Map, error) {
	if cfg.Sandbox.UserRemap == "" {
		return nil, nil
	}
	users, err := idmap.Open(cfg.Sandbox.UserRemap)
	if err != nil {
		return nil, fmt.Errorf("sandbox.userRemap: %w", err)
	}
	for dir := filepath.Dir(cfg.Root); dir != "/"; dir = filepath.Dir(dir) {
		if fi, err := os.Stat(dir); err == nil && fi.Mode()&0o001 == 0 {
			log.L.Warnf("sandbox.userRemap: not everybody may pass through %s: OCI runtimes won't find what is below it as other users (chmod o+x)", dir)
		}
	}
	return users, nil
}

// openDevices is nil where builds get no devices.
func openDevices(cfg config.CDI) (*device.Devices, error) {
	if cfg.Disabled {
		return nil, nil
	}
	return device.Open(device.Config{Dirs: cfg.SpecDirs, AutoAllowed: cfg.AutoAllowed})
}

// entitlements are what builds may ask for.
func entitlements(cfg config.Config) []string {
	if cfg.CDI.Disabled {
		return cfg.Entitlements
	}
	return append(slices.Clip(cfg.Entitlements), "device")
}

// openSandbox makes what runs processes, and removes what an earlier daemon on
// the same root left of its own.
func (d *Daemon) openSandbox(ctx context.Context, devices *device.Devices) (*sandbox.Local, error) {
	cfg := d.cfg
	if cfg.Sandbox.SetupCgroup {
		if err := sandbox.VacateCgroup(meter.Root); err != nil {
			return nil, err
		}
	}
	c := sandbox.Config{
		StateDir:        filepath.Join(cfg.Root, "sandbox"),
		DNS:             sandbox.DNS{Nameservers: cfg.DNS.Nameservers, Options: cfg.DNS.Options, Search: cfg.DNS.SearchDomains},
		CgroupParent:    cfg.Sandbox.CgroupParent,
		Rootless:        cfg.Sandbox.Rootless,
		HostPID:         cfg.Sandbox.HostPID,
		AppArmorProfile: cfg.Sandbox.AppArmor,
		SELinux:         cfg.Sandbox.SELinux,
		Devices:         devices,
		Network:         d.network,
	}
	if err := d.chooseRuntime(ctx, &c); err != nil {
		return nil, err
	}
	runner, err := sandbox.New(c)
	if err != nil {
		return nil, err
	}
	return runner, runner.Reconcile(ctx)
}

func frontends(cfg config.Config) map[string]frontend.Func {
	all := map[string]frontend.Func{}
	if cfg.Frontends.Dockerfile {
		all["dockerfile.v0"] = frontend.Dockerfile
	}
	return all
}

func registries(cfg config.Config) registry.Config {
	hosts := make(map[string]registry.Host, len(cfg.Registries))
	for name, r := range cfg.Registries {
		h := registry.Host{
			Mirrors:  r.Mirrors,
			HTTP:     r.HTTP,
			Insecure: r.Insecure != nil && *r.Insecure,
			CA:       r.CA,
			TLSDirs:  r.TLSConfigDirs,
		}
		for _, p := range r.KeyPairs {
			h.KeyPairs = append(h.KeyPairs, registry.KeyPair{Cert: p.Cert, Key: p.Key})
		}
		hosts[name] = h
	}
	return registry.Config{Hosts: hosts, HostDirs: cfg.CertsDirs}
}

// diskSize is how many bytes the disk has that root is on, 0 if that is unknown.
func diskSize(root string) int64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return 0
	}
	return int64(fs.Blocks) * fs.Bsize
}

// policies are what is collected on a disk of so many bytes.
func policies(gc config.GC, disk int64) []cache.Policy {
	var out []cache.Policy
	for _, p := range gc.EffectivePolicies(disk) {
		out = append(out, cache.Policy{
			Filters:       p.Filters,
			All:           p.All,
			KeepDuration:  p.KeepDuration.Duration,
			ReservedSpace: p.ReservedSpace.Bytes,
			MaxUsedSpace:  p.MaxUsedSpace.Bytes,
			MinFreeSpace:  p.MinFreeSpace.Bytes,
		})
	}
	return out
}

// A disk isn't filled to less than this part of it, or this many bytes, the
// lesser of the two, whatever the policies say.
const (
	leastFreePart  = 100
	leastFreeBytes = 1e9
)

// ceiling is what holds during builds: the most that the policies for all
// records allow. Their minimum of free space is restored after builds, by
// collecting; a build only fails when next to nothing is left.
func ceiling(gc config.GC, disk int64) builder.Ceiling {
	c := builder.Ceiling{}
	for _, p := range gc.EffectivePolicies(disk) {
		c.MinFree = min(disk/leastFreePart, leastFreeBytes)
		if len(p.Filters) == 0 && p.KeepDuration.Duration == 0 {
			c.MaxUsed = max(p.MaxUsedSpace.Bytes, p.ReservedSpace.Bytes)
			if p.MaxUsedSpace.Bytes == 0 {
				c.MaxUsed = 0
			}
		}
	}
	return c
}
