// Package registry gives builds access to image registries: where a registry's
// content can be had and how its hosts are spoken to ([Config]), with the
// credentials of the sessions that a build belongs to. What one session's
// credentials opened isn't open to another one that hasn't proved the same.
package registry

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/kiln-build/kiln/builder/session"
)

// Config says how registries are reached.
type Config struct {
	// Hosts are settings by registry name, as in references ("docker.io",
	// "localhost:5000"); a mirror's are under its own name.
	Hosts map[string]Host
	// HostDirs are directories that hold a hosts.toml or certificates for
	// each registry, in containerd's layout. They count for registries that
	// aren't in Hosts; the first that knows a registry wins.
	HostDirs []string
	// MaxTransfers bounds the transfers with one registry at a time; 0 is 4.
	MaxTransfers int
	// UserAgent is sent with each request; "" is containerd's.
	UserAgent string
	// Retry says how failing requests are repeated; the zero value is
	// DefaultRetry.
	Retry Retry
}

// Host are the settings for one registry host. Mirrors are tried in order
// before the host itself, only to pull from; each is a host with an optional
// port and path.
type Host struct {
	Mirrors []string
	// HTTP says whether plain HTTP is spoken; nil: to this machine only.
	HTTP *bool
	// Insecure accepts any certificate; with HTTP, TLS is tried first.
	Insecure bool
	// CA are files with certificates that count beside the system's.
	CA       []string
	KeyPairs []KeyPair
	// TLSDirs are directories of *.crt roots and of *.cert and *.key pairs;
	// absent ones are ignored.
	TLSDirs []string
}

// KeyPair are files with a client certificate.
type KeyPair struct{ Cert, Key string }

// Registries is access to all registries. It is safe for concurrent use.
type Registries struct {
	cfg      Config
	sessions *session.Manager
	logins   *logins
	grants   grants

	mu    sync.Mutex
	hosts map[string]cachedHosts
	slots map[string]chan struct{}
}

type cachedHosts struct {
	hosts  []docker.RegistryHost
	loaded time.Time
}

// hostsLife is how long the settings of a host count before files are read
// again.
const hostsLife = 30 * time.Second

// New returns access under the settings, which must not change.
func New(cfg Config, sessions *session.Manager) *Registries {
	if cfg.MaxTransfers <= 0 {
		cfg.MaxTransfers = 4
	}
	if cfg.Retry == (Retry{}) {
		cfg.Retry = DefaultRetry
	}
	return &Registries{
		cfg: cfg, sessions: sessions, logins: newLogins(),
		hosts: map[string]cachedHosts{}, slots: map[string]chan struct{}{},
	}
}

// Resolver speaks to registries for the sessions; see [Registries.Hosts].
func (r *Registries) Resolver(sessions func() []string) remotes.Resolver {
	h := http.Header{}
	if r.cfg.UserAgent != "" {
		h.Set("User-Agent", r.cfg.UserAgent)
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: r.Hosts(sessions), Headers: h})
}

// Hosts gives the hosts for a registry, in the order in which they are to be
// tried. They are authorized with credentials of the sessions, which are asked
// for when a host wants to know who it speaks with.
func (r *Registries) Hosts(sessions func() []string) docker.RegistryHosts {
	auth := newAuthorizer(r, sessions)
	return func(name string) ([]docker.RegistryHost, error) {
		known, err := r.load(name)
		if err != nil {
			return nil, err
		}
		hosts := slices.Clone(known)
		for i := range hosts {
			hosts[i].Authorizer = auth.on(hosts[i].Client)
		}
		return hosts, nil
	}
}

func (r *Registries) load(name string) ([]docker.RegistryHost, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.hosts[name]
	if time.Since(old.loaded) < hostsLife {
		return old.hosts, nil
	}
	hosts, err := configure(r.cfg, name)
	if err != nil {
		return nil, err
	}
	for _, h := range old.hosts {
		h.Client.CloseIdleConnections()
	}
	r.hosts[name] = cachedHosts{hosts, time.Now()}
	return hosts, nil
}

// Close gives up connections that are not in use.
func (r *Registries) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.hosts {
		for _, h := range c.hosts {
			h.Client.CloseIdleConnections()
		}
	}
}

// Acquire waits until another transfer with the registry may start. release
// must be called once.
func (r *Registries) Acquire(ctx context.Context, name string) (release func(), err error) {
	r.mu.Lock()
	slots, ok := r.slots[name]
	if !ok {
		slots = make(chan struct{}, r.cfg.MaxTransfers)
		r.slots[name] = slots
	}
	r.mu.Unlock()
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Insecure is access to one registry over plain HTTP, or TLS with any
// certificate, whatever its settings are.
func (r *Registries) Insecure(name string) *Registries {
	cfg := r.cfg
	cfg.Hosts = maps.Clone(r.cfg.Hosts)
	if cfg.Hosts == nil {
		cfg.Hosts = map[string]Host{}
	}
	http := true
	h := cfg.Hosts[name]
	h.HTTP, h.Insecure = &http, true
	cfg.Hosts[name] = h
	return New(cfg, r.sessions)
}
