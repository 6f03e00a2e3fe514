// Package host reaches the containerd of this machine, version 1.7 or later,
// through its socket. What it makes lies in a namespace that other clients of
// that containerd see.
package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/store"
)

// Config says which containerd to use, and what of it.
type Config struct {
	// Address is the path of the socket, with or without "unix://"; "" is
	// [DefaultAddress].
	Address string
	// Namespace is made if absent; "" is [DefaultNamespace].
	Namespace string
	// Snapshotter is one that this containerd has; "" and "auto" are
	// [DefaultSnapshotter].
	Snapshotter string
}

// The defaults are those of containerd's own clients.
const (
	DefaultAddress     = "/run/containerd/containerd.sock"
	DefaultNamespace   = "default"
	DefaultSnapshotter = "overlayfs"
)

// dialTimeout bounds how long Open waits for an answer.
const dialTimeout = 2 * time.Second

// Open connects to containerd. It fails with errdefs.ErrUnavailable where none
// answers, errdefs.ErrNotFound where it has no such snapshotter, and
// errdefs.ErrFailedPrecondition where the snapshotter doesn't work.
func Open(ctx context.Context, cfg Config) (*store.Store, error) {
	cfg = cfg.withDefaults()
	if err := identifiers.Validate(cfg.Namespace); err != nil {
		return nil, fmt.Errorf("containerd namespace: %w", err)
	}
	opts := append(new(patience).options(), deadlines())
	c, err := client.New(cfg.Address, client.WithTimeout(dialTimeout), client.WithExtraDialOpts(opts))
	if err != nil {
		return nil, fmt.Errorf("containerd on %s: %w", cfg.Address, err)
	}
	st, err := open(ctx, cfg, c)
	if err != nil {
		c.Close()
		return nil, err
	}
	return st, nil
}

func (cfg Config) withDefaults() Config {
	if cfg.Address = strings.TrimPrefix(cfg.Address, "unix://"); cfg.Address == "" {
		cfg.Address = DefaultAddress
	}
	if cfg.Namespace == "" {
		cfg.Namespace = DefaultNamespace
	}
	if cfg.Snapshotter == "" || cfg.Snapshotter == "auto" {
		cfg.Snapshotter = DefaultSnapshotter
	}
	return cfg
}

func open(ctx context.Context, cfg Config, c *client.Client) (*store.Store, error) {
	info, err := identify(ctx, cfg.Address, c)
	if err != nil {
		return nil, err
	}
	err = c.NamespaceService().Create(ctx, cfg.Namespace, nil)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("containerd namespace %s: %w", cfg.Namespace, err)
	}
	ctx = namespaces.WithNamespace(ctx, cfg.Namespace)
	if err := checkSnapshotter(ctx, c, cfg); err != nil {
		return nil, err
	}
	st := &store.Store{
		Content:     c.ContentStore(),
		Snapshots:   c.SnapshotService(cfg.Snapshotter),
		Leases:      c.LeasesService(),
		Images:      c.ImageService(),
		Applier:     c.DiffService(),
		Namespace:   cfg.Namespace,
		Snapshotter: cfg.Snapshotter,
		Host:        info,
		Close:       c.Close,
	}
	st.Collect = func(ctx context.Context) error { return collect(ctx, st.Leases) }
	return st, nil
}

// identify asks who answers.
func identify(ctx context.Context, address string, c *client.Client) (*store.HostInfo, error) {
	wait, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if serving, err := c.IsServing(wait); err != nil || !serving {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("no containerd answers on %s (%s): %w", address, why(address, err), errdefs.ErrUnavailable)
	}
	// Some calls want a namespace although they are not about any.
	ctx = namespaces.WithNamespace(ctx, DefaultNamespace)
	server, err := c.Server(ctx)
	if err != nil {
		return nil, fmt.Errorf("containerd on %s: its UUID: %w", address, err)
	}
	version, err := c.Version(ctx)
	if err != nil {
		return nil, fmt.Errorf("containerd on %s: its version: %w", address, err)
	}
	if tooOld(version.Version) {
		return nil, fmt.Errorf("containerd on %s is version %s, need 1.7 or later: %w", address, version.Version, errdefs.ErrFailedPrecondition)
	}
	return &store.HostInfo{Address: address, UUID: server.UUID, Version: version.Version}, nil
}

// tooOld says whether a release lacks what the engine needs. 1.7 has all of it;
// names that aren't numbers are those of builds of containerd's main branch.
func tooOld(version string) bool {
	var major, minor int
	n, _ := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d", &major, &minor)
	return n == 2 && (major < 1 || major == 1 && minor < 7)
}

// why says what to do about a socket on which nothing answers.
func why(address string, err error) string {
	_, serr := os.Stat(address)
	switch {
	case errors.Is(serr, fs.ErrNotExist):
		return "there is no such socket: start containerd, or give the address of another one"
	case errors.Is(serr, fs.ErrPermission) || err != nil && strings.Contains(err.Error(), "permission denied"):
		return "permission denied: run as root, or as a user that may use the socket"
	case err != nil:
		return "start containerd, or give the address of another one: " + err.Error()
	}
	return "it is not ready"
}

// checkSnapshotter looks for the snapshotter among containerd's plugins.
func checkSnapshotter(ctx context.Context, c *client.Client, cfg Config) error {
	answer, err := c.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return fmt.Errorf("containerd on %s: its snapshotters: %w", cfg.Address, err)
	}
	var have []string
	for _, p := range answer.GetPlugins() {
		if p.GetID() == cfg.Snapshotter {
			return works(p, cfg)
		}
		if p.GetInitErr() == nil {
			have = append(have, p.GetID())
		}
	}
	return fmt.Errorf("containerd on %s has no snapshotter %q, but %s: %w",
		cfg.Address, cfg.Snapshotter, strings.Join(have, ", "), errdefs.ErrNotFound)
}

func works(p *introspection.Plugin, cfg Config) error {
	if e := p.GetInitErr(); e != nil {
		return fmt.Errorf("snapshotter %q of the containerd on %s doesn't work: %s: %w",
			cfg.Snapshotter, cfg.Address, e.GetMessage(), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// collect has containerd collect: it does when a lease is deleted with the wish
// to wait for that.
func collect(ctx context.Context, m leases.Manager) error {
	l, err := m.Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour))
	if err != nil {
		return fmt.Errorf("collect what nothing refers to: %w", err)
	}
	if err := m.Delete(ctx, l, leases.SynchronousDelete); err != nil {
		return fmt.Errorf("collect what nothing refers to: %w", err)
	}
	return nil
}
