package plugin

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/plugin/config"
	"github.com/kiln-build/kiln/snapshotter/lazy"
	"github.com/kiln-build/kiln/snapshotter/lazy/server"
)

// LazyCommand is the first of two arguments that make the daemon's program the
// process that serves the files of lazily pulled layers: [ServeLazy] of the other
// one.
const LazyCommand = "serve-lazy-layers"

// ServeLazy serves until ctx ends or nobody needs it any more.
func ServeLazy(ctx context.Context, root string) error {
	return server.Run(ctx, server.Config{Root: root, Hosts: func(settings json.RawMessage) (docker.RegistryHosts, error) {
		var cfg registry.Config
		if err := json.Unmarshal(settings, &cfg); err != nil {
			return nil, err
		}
		return registry.New(cfg, session.NewManager()).Hosts(nil), nil
	}})
}

// openLazy is what shows the snapshotter's lazy layers, with what it has on disk
// below root; nil if it isn't to, or couldn't show it to steps with other users.
func openLazy(ctx context.Context, cfg config.Config, root string, regs *registry.Registries) (*lazy.Filesystem, error) {
	l := cfg.Snapshots.Lazy
	if !l.Enabled || cfg.Sandbox.UserRemap != "" {
		return nil, nil
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	hosts, err := json.Marshal(registries(cfg))
	if err != nil {
		return nil, err
	}
	s := lazy.Settings{
		Registries:        hosts,
		DockerConfig:      l.DockerConfig,
		Kubeconfig:        l.Kubeconfig,
		NoBackgroundFetch: !l.BackgroundFetch,
		PrefetchSize:      l.PrefetchSize.Bytes,
		CacheSize:         l.CacheSize.Of(diskSize(cfg.Root)),
		MountTimeout:      l.MountTimeout.Duration,
		FetchTimeout:      l.FetchTimeout.Duration,
	}
	if l.CRIAddress != "" {
		s.CRI = lazy.CRI{Socket: l.CRIAddress, Image: cfg.Containerd.Address}
	}
	return lazy.New(ctx, lazy.Config{
		Root:      filepath.Join(root, "lazy"),
		Command:   []string{program, LazyCommand},
		Settings:  s,
		Authorize: authorizeGrants(regs),
	})
}

// authorizeGrants answers with the credentials of the sessions that a grant
// stands for.
func authorizeGrants(regs *registry.Registries) lazy.Authorize {
	return func(ctx context.Context, c lazy.Challenge) (string, error) {
		return regs.AnswerGrant(ctx, c.Grant, registry.Challenge{
			Repository: c.Repository, URL: c.URL, Scopes: c.Scopes, Challenges: c.Challenges, Refused: c.Refused,
		})
	}
}
