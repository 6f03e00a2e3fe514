package plugin

import (
	"context"
	"path/filepath"

	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/frontend"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/cni"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/plugin/config"
	"golang.org/x/sys/unix"
)

// openBuilder puts a builder on the store. network may be nil.
func openBuilder(ctx context.Context, cfg config.Config, st *store.Store, network *cni.Provider, sessions *session.Manager) (*builder.Builder, error) {
	runner, err := openSandbox(ctx, cfg, network)
	if err != nil {
		return nil, err
	}
	platforms, err := workerPlatforms(cfg.Platforms)
	if err != nil {
		return nil, err
	}
	return builder.Open(ctx, builder.Config{
		Root:           cfg.Root,
		Store:          st,
		Runner:         runner,
		Sessions:       sessions,
		Registries:     registry.New(registries(cfg), sessions),
		Entitlements:   cfg.Entitlements,
		Labels:         workerLabels(cfg, st),
		Platforms:      platforms,
		MaxParallelism: cfg.Sandbox.MaxParallelism,
		CgroupParent:   cfg.Sandbox.CgroupParent,
		Policies:       policies(cfg),
		Frontends:      frontends(cfg),
	})
}

// openSandbox makes what runs processes, and removes what an earlier daemon on
// the same root left of its own.
func openSandbox(ctx context.Context, cfg config.Config, network *cni.Provider) (*sandbox.Runc, error) {
	c := sandbox.Config{
		Binary:          cfg.Sandbox.Runtime,
		StateDir:        filepath.Join(cfg.Root, "sandbox"),
		DNS:             sandbox.DNS{Nameservers: cfg.DNS.Nameservers, Options: cfg.DNS.Options, Search: cfg.DNS.SearchDomains},
		CgroupParent:    cfg.Sandbox.CgroupParent,
		Rootless:        cfg.Sandbox.Rootless,
		HostPID:         cfg.Sandbox.HostPID,
		AppArmorProfile: cfg.Sandbox.AppArmor,
	}
	if network != nil {
		c.Network = network
	}
	runner, err := sandbox.NewRunc(c)
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

// policies are what is collected, for the disk that root is on.
func policies(cfg config.Config) []cache.Policy {
	var disk int64
	var fs unix.Statfs_t
	if err := unix.Statfs(cfg.Root, &fs); err == nil {
		disk = int64(fs.Blocks) * fs.Bsize
	}
	var out []cache.Policy
	for _, p := range cfg.GC.EffectivePolicies(disk) {
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
