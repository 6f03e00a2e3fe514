package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
)

// Bridge is one that all networks of a provider are connected to. Networks get
// addresses of Subnet ("10.0.0.0/16") and reach the outside through the host's,
// but processes on other bridges don't reach them.
type Bridge struct {
	Name, Subnet string
}

// bridgePlugins are those that a Bridge needs.
var bridgePlugins = []string{"bridge", "host-local", "firewall"}

// HasBridge tells whether this machine has what a Bridge takes: plugins in the
// directory, and a program for the host's rules.
func HasBridge(pluginDir string) bool {
	for _, name := range bridgePlugins {
		if _, err := os.Stat(filepath.Join(pluginDir, name)); err != nil {
			return false
		}
	}
	_, err := exec.LookPath("iptables")
	return err == nil
}

func (p *Provider) bridgeFile() string { return filepath.Join(p.cfg.Dir, "bridge") }

// noteBridge calls connect, and remembers whether that made the bridge.
func (p *Provider) noteBridge(connect func() error) error {
	b := p.cfg.Bridge
	if b == nil {
		return connect()
	}
	l, err := link(b.Name)
	if err != nil || l != nil {
		return errors.Join(err, connect())
	}
	if err := os.WriteFile(p.bridgeFile(), []byte(b.Name), 0o600); err != nil {
		return err
	}
	return connect()
}

// removeBridge removes the bridge that this provider, or an earlier one in the
// same directory, made, unless somebody else is connected to it.
func (p *Provider) removeBridge() error {
	name, err := os.ReadFile(p.bridgeFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.alone(func() error {
		bridge, err := link(string(name))
		if err != nil {
			return err
		}
		if bridge != nil {
			used, err := hasPorts(bridge)
			if err != nil || used {
				return err
			}
			if err := netlink.LinkDel(bridge); err != nil {
				return fmt.Errorf("remove bridge %s: %w", name, err)
			}
		}
		removeIsolation(string(name))
		return os.Remove(p.bridgeFile())
	})
}

// removeIsolation removes the rules that keep other bridges' processes from a bridge's.
// The plugin that makes them, one of each kind for a bridge, never does. Where there
// are none, or no program for them, nothing happens.
func removeIsolation(bridge string) {
	comment := []string{"-m", "comment", "--comment", "CNI firewall plugin rules (ingressPolicy: same-bridge)"}
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, rule := range [][]string{
			{"CNI-ISOLATION-STAGE-1", "-i", bridge, "!", "-o", bridge, "-j", "CNI-ISOLATION-STAGE-2"},
			{"CNI-ISOLATION-STAGE-2", "-o", bridge, "-j", "DROP"},
		} {
			exec.Command(program, slices.Concat([]string{"--wait", "--delete"}, rule, comment)...).Run() //nolint:errcheck // see above
		}
	}
}

// link finds a network interface of the host, nil if there is none.
func link(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("network interface %s: %w", name, err)
	}
	return l, nil
}

func hasPorts(bridge netlink.Link) (bool, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return false, fmt.Errorf("network interfaces: %w", err)
	}
	for _, l := range all {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			return true, nil
		}
	}
	return false, nil
}
