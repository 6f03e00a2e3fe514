// Package cni gives processes networks of their own, which plugins of the
// Container Network Interface connect, as a configuration file says.
//
// What a provider has made lies in its directory, so that one that comes after a
// crash can remove it. The namespaces are mounted there, because plugins look into
// those that they disconnect:
//
//	DIR/networks/ID   a network namespace; ID is its name for the plugins too
//	DIR/results/      what the plugins said, which they want to hear again
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
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/netns"
	"github.com/kiln-build/kiln/builder/sandbox/netpool"
	"golang.org/x/sys/unix"
)

// Config says what networks are made of.
type Config struct {
	// Dir is a directory of the provider's own. It is made if absent.
	Dir string
	// PluginDir has the plugins.
	PluginDir string
	// File is a network list (*.conflist) or a single network.
	File string
	// Ready is how many networks are made before anybody asks for them.
	Ready int
}

// leftTimeout bounds the removal of a network that an earlier provider left.
const leftTimeout = time.Minute

// Provider implements sandbox.NetworkProvider.
type Provider struct {
	cfg     Config
	plugins libcni.CNI
	list    *libcni.NetworkConfigList
	pool    *netpool.Pool
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
	// Left to itself, the library would make this at the first call, and at several at once.
	exec := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}}
	p.plugins = libcni.NewCNIConfigWithCacheDir([]string{cfg.PluginDir}, cfg.Dir, exec)
	if err := os.MkdirAll(p.networks(), 0o700); err != nil {
		return nil, fmt.Errorf("networks of processes: %w", err)
	}
	left, err := os.ReadDir(p.networks())
	if err != nil {
		return nil, fmt.Errorf("networks of processes: %w", err)
	}
	for _, e := range left {
		p.tidy.Go(func() { p.removeLeft(e.Name()) })
	}
	p.pool = netpool.New(cfg.Ready, p.make)
	return p, nil
}

func (p *Provider) networks() string { return filepath.Join(p.cfg.Dir, "networks") }

func (p *Provider) removeLeft(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), leftTimeout)
	defer cancel()
	if err := (&network{p: p, id: id}).Remove(ctx); err != nil {
		log.G(ctx).WithError(err).Warnf("network %s of an earlier daemon is left over", id)
	}
}

// Close removes all networks that nobody has; those that somebody has go when
// they are given back.
func (p *Provider) Close() error {
	p.tidy.Wait()
	p.pool.Close()
	return nil
}

// New implements sandbox.NetworkProvider.
func (p *Provider) New(ctx context.Context, req sandbox.NetworkRequest) (sandbox.NetworkNamespace, error) {
	return p.pool.New(ctx, req)
}

// network implements netpool.Network.
type network struct {
	p    *Provider
	id   string
	args [][2]string
}

// Path implements netpool.Network.
func (n *network) Path() string { return filepath.Join(n.p.networks(), n.id) }

// Remove implements netpool.Network. What can't be disconnected is tried again by the
// next provider.
func (n *network) Remove(ctx context.Context) error {
	path := n.Path()
	if !netns.Is(path) {
		path = "" // it went with an earlier boot; its address and rules may be there
	}
	if err := n.p.plugins.DelNetworkList(ctx, n.p.list, n.runtime(path)); err != nil {
		return err
	}
	return netns.Remove(n.Path())
}

// runtime is what plugins are told of the network; path is "" where the
// namespace is gone.
func (n *network) runtime(path string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: n.id, NetNS: path, IfName: "eth0", Args: n.args}
}

// make implements netpool.Maker.
func (p *Provider) make(ctx context.Context, hostname string) (netpool.Network, error) {
	n := &network{p: p, id: strings.ToLower(rand.Text())}
	if hostname != "" {
		if strings.ContainsAny(hostname, ";=") {
			return nil, fmt.Errorf("the host name %q can't be told to network plugins: it has ; or = in it", hostname)
		}
		// Plugins that know names of hosts know them as those of pods.
		n.args = [][2]string{{"K8S_POD_NAME", hostname}, {"IgnoreUnknown", "1"}}
	}
	if err := netns.Make(n.Path()); err != nil {
		return nil, err
	}
	if err := p.connect(ctx, n); err != nil {
		return nil, errors.Join(fmt.Errorf("connect a network: %w", err), n.Remove(ctx))
	}
	return n, nil
}

// connect lets the plugins do their work. For the first network they make what
// all share, and no other provider on this machine may do the same meanwhile.
func (p *Provider) connect(ctx context.Context, n *network) error {
	p.first.Lock()
	if p.connected {
		p.first.Unlock()
		return p.attach(ctx, n)
	}
	defer p.first.Unlock()
	return p.alone(func() error {
		err := p.attach(ctx, n)
		p.connected = err == nil
		return err
	})
}

func (p *Provider) attach(ctx context.Context, n *network) error {
	_, err := p.plugins.AddNetworkList(ctx, p.list, n.runtime(n.Path()))
	return err
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
