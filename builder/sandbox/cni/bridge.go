package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// Bridge is one that all networks of a provider are connected to. Networks get
// addresses of Subnet ("10.0.0.0/16") and reach the outside through the host's,
// but processes on other bridges don't reach them.
type Bridge struct {
	Name, Subnet string
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
		return os.Remove(p.bridgeFile())
	})
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
