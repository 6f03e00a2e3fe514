// Package cni gives processes networks of their own, which plugins of the
// Container Network Interface connect: those of a configuration file, or a
// bridge.
//
// A network that a process leaves waits for another one, because connecting and
// disconnecting take longer than most steps. What a provider has made lies in
// its directory, so that one that comes after a crash can remove it:
//
//	DIR/networks/ID   a network namespace; ID is its name for the plugins too
//	DIR/results/      what the plugins said, which they want to hear again
//	DIR/bridge        there is a bridge of the name that is in this file
package cni

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containernetworking/cni/libcni"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/netns"
	"golang.org/x/sys/unix"
)

// Config says what networks are made of. Either File or Bridge is set.
type Config struct {
	// Dir is a directory of the provider's own. It is made if absent.
	Dir string
	// PluginDir has the plugins.
	PluginDir string
	// File is a network list (*.conflist) or a single network.
	File   string
	Bridge *Bridge
	// Ready is how many networks are made before anybody asks for them.
	Ready int
	// Rootless is for a daemon in a user namespace.
	Rootless bool
}

// callTimeout bounds what plugins take for one network.
const callTimeout = time.Minute

// Provider implements sandbox.NetworkProvider.
type Provider struct {
	cfg     Config
	plugins libcni.CNI
	list    *libcni.NetworkConfigList
	pool    *pool
	tidy    sync.WaitGroup // removal of what an earlier provider left
	first   sync.Mutex
	// connected: plugins have made what all networks share. It belongs to first.
	connected bool
}

var _ sandbox.NetworkProvider = (*Provider)(nil)

// Open checks the configuration and removes what an earlier provider has left in
// the directory. The first network is made when it is asked for. Close it.
func Open(cfg Config) (*Provider, error) {
	list, err := load(cfg)
	if err != nil {
		return nil, fmt.Errorf("networks of processes: %w", err)
	}
	p := &Provider{cfg: cfg, list: list}
	p.plugins = libcni.NewCNIConfigWithCacheDir([]string{cfg.PluginDir}, cfg.Dir, nil)
	p.pool = newPool(cfg.Ready, p.make, p.remove)
	if err := os.MkdirAll(p.networks(), 0o700); err != nil {
		return nil, fmt.Errorf("networks of processes: %w", err)
	}
	left, err := os.ReadDir(p.networks())
	if err != nil {
		return nil, fmt.Errorf("networks of processes: %w", err)
	}
	for _, e := range left {
		p.tidy.Go(func() { p.remove(&namespace{p: p, id: e.Name()}) })
	}
	p.pool.fill()
	return p, nil
}

func (p *Provider) networks() string { return filepath.Join(p.cfg.Dir, "networks") }

// Close removes all networks that nobody has; those that somebody has go when
// they are given back.
func (p *Provider) Close() error {
	p.tidy.Wait()
	p.pool.close()
	if err := p.removeBridge(); err != nil {
		return fmt.Errorf("networks of processes: %w", err)
	}
	return nil
}

// New implements sandbox.NetworkProvider.
func (p *Provider) New(ctx context.Context, req sandbox.NetworkRequest) (sandbox.NetworkNamespace, error) {
	if req.Hostname == "" && !req.Exclusive {
		return p.pool.get(ctx)
	}
	ns, err := p.create(ctx, req.Hostname)
	if err != nil {
		return nil, err
	}
	ns.exclusive = true
	return ns, nil
}

// namespace is a network. It implements sandbox.NetworkNamespace.
type namespace struct {
	p         *Provider
	id        string
	exclusive bool
	args      [][2]string
	idleSince time.Time // while it is in the pool
}

// Path implements sandbox.NetworkNamespace.
func (n *namespace) Path() string { return filepath.Join(n.p.networks(), n.id) }

// Close implements sandbox.NetworkNamespace.
func (n *namespace) Close() error {
	if n.exclusive {
		n.p.pool.discard(n)
	} else {
		n.p.pool.put(n)
	}
	return nil
}

func (p *Provider) make(ctx context.Context) (*namespace, error) { return p.create(ctx, "") }

// create makes a network and has it connected. Plugins are not interrupted: what
// they leave half done can't be undone.
func (p *Provider) create(ctx context.Context, hostname string) (*namespace, error) {
	ns := &namespace{p: p, id: strings.ToLower(rand.Text())}
	if hostname != "" {
		if strings.ContainsAny(hostname, ";=") {
			return nil, fmt.Errorf("the host name %q can't be told to network plugins: it has ; or = in it", hostname)
		}
		// Plugins that know names of hosts know them as those of pods.
		ns.args = [][2]string{{"K8S_POD_NAME", hostname}, {"IgnoreUnknown", "1"}}
	}
	if err := netns.Make(ns.Path()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := p.connect(ctx, ns); err != nil {
		p.remove(ns)
		return nil, fmt.Errorf("connect a network: %w", err)
	}
	return ns, nil
}

// connect lets the plugins do their work. For the first network they make what
// all share, and no other provider on this machine may do the same meanwhile.
func (p *Provider) connect(ctx context.Context, ns *namespace) error {
	p.first.Lock()
	if p.connected {
		p.first.Unlock()
		return p.attach(ctx, ns)
	}
	defer p.first.Unlock()
	return p.alone(func() error {
		err := p.noteBridge(func() error { return p.attach(ctx, ns) })
		p.connected = err == nil
		return err
	})
}

func (p *Provider) attach(ctx context.Context, ns *namespace) error {
	_, err := p.plugins.AddNetworkList(ctx, p.list, ns.runtime(ns.Path()))
	return err
}

// runtime is what plugins are told of the network; path is "" where the
// namespace is gone.
func (n *namespace) runtime(path string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: n.id, NetNS: path, IfName: "eth0", Args: n.args}
}

// alone calls f while no other provider with the same plugins does so.
func (p *Provider) alone(f func() error) error {
	d, err := os.Open(p.cfg.PluginDir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if err == nil {
			return f()
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", p.cfg.PluginDir, err)
		}
	}
}

// remove disconnects a network and forgets it. What can't be disconnected is
// tried again by the next provider.
func (p *Provider) remove(ns *namespace) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	path := ns.Path()
	if !netns.Is(path) {
		path = "" // it went with an earlier boot; its address and rules may be there
	}
	err := p.plugins.DelNetworkList(ctx, p.list, ns.runtime(path))
	if err == nil {
		err = netns.Remove(ns.Path())
	}
	if err != nil {
		log.G(ctx).WithError(err).Warnf("network %s is left over", ns.id)
	}
}
