// Package cni gives processes networks of their own, which plugins of the
// Container Network Interface connect, as a configuration file says.
//
// What a provider has made lies in its directory, so that one that comes after a
// crash can remove it:
//
//	DIR/networks/ID   a network namespace; ID is its name for the plugins too
//	DIR/results/      what the plugins said, which they want to hear again
package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containernetworking/cni/libcni"
	"github.com/kiln-build/kiln/builder/sandbox"
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

// Provider implements sandbox.NetworkProvider.
type Provider struct {
	pool *netpool.Pool
}

var _ sandbox.NetworkProvider = (*Provider)(nil)

// Open checks the configuration and removes what an earlier provider has left in
// the directory. The first network is made when it is asked for. Close it.
func Open(cfg Config) (*Provider, error) {
	list, err := load(cfg)
	if err != nil {
		return nil, fmt.Errorf("networks of processes: %w", err)
	}
	pool, err := netpool.Open(filepath.Join(cfg.Dir, "networks"), cfg.Ready, &connector{
		plugins:   libcni.NewCNIConfigWithCacheDir([]string{cfg.PluginDir}, cfg.Dir, nil),
		pluginDir: cfg.PluginDir,
		list:      list,
	})
	if err != nil {
		return nil, fmt.Errorf("networks of processes: %w", err)
	}
	return &Provider{pool: pool}, nil
}

// Close removes all networks that nobody has; those that somebody has go when
// they are given back.
func (p *Provider) Close() error {
	p.pool.Close()
	return nil
}

// New implements sandbox.NetworkProvider.
func (p *Provider) New(ctx context.Context, req sandbox.NetworkRequest) (sandbox.NetworkNamespace, error) {
	return p.pool.New(ctx, req)
}

// connector has plugins connect networks. It implements netpool.Connector.
type connector struct {
	plugins   libcni.CNI
	pluginDir string
	list      *libcni.NetworkConfigList
	first     sync.Mutex
	// connected: plugins have made what all networks share. It belongs to first.
	connected bool
}

// Connect implements netpool.Connector. For the first network plugins make what all
// share, and no other provider on this machine may do the same meanwhile.
func (c *connector) Connect(ctx context.Context, ns *netpool.Namespace) error {
	if strings.ContainsAny(ns.Hostname, ";=") {
		return fmt.Errorf("the host name %q can't be told to network plugins: it has ; or = in it", ns.Hostname)
	}
	c.first.Lock()
	if c.connected {
		c.first.Unlock()
		return c.attach(ctx, ns)
	}
	defer c.first.Unlock()
	return c.alone(func() error {
		err := c.attach(ctx, ns)
		c.connected = err == nil
		return err
	})
}

func (c *connector) attach(ctx context.Context, ns *netpool.Namespace) error {
	_, err := c.plugins.AddNetworkList(ctx, c.list, runtime(ns))
	return err
}

// Disconnect implements netpool.Connector.
func (c *connector) Disconnect(ctx context.Context, ns *netpool.Namespace) error {
	return c.plugins.DelNetworkList(ctx, c.list, runtime(ns))
}

// runtime is what plugins are told of a network. Where the namespace went with an
// earlier boot it has no path; its address and rules may be there.
func runtime(ns *netpool.Namespace) *libcni.RuntimeConf {
	conf := &libcni.RuntimeConf{ContainerID: ns.ID, IfName: "eth0"}
	if ns.Exists() {
		conf.NetNS = ns.Path()
	}
	if ns.Hostname != "" {
		// Plugins that know names of hosts know them as those of pods.
		conf.Args = [][2]string{{"K8S_POD_NAME", ns.Hostname}, {"IgnoreUnknown", "1"}}
	}
	return conf
}

// alone calls f while no other provider with the same plugins does so.
func (c *connector) alone(f func() error) error {
	d, err := os.Open(c.pluginDir)
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
			return fmt.Errorf("lock %s: %w", c.pluginDir, err)
		}
	}
}
