package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// claimBridge claims the configured name, or one that is free.
func claimBridge(name string) (*table, error) {
	if name != "" {
		return claimFree(name)
	}
	var err error
	for i := range 100 {
		var t *table
		if t, err = claimFree(fmt.Sprintf("kiln%d", i)); !errors.Is(err, errTaken) {
			return t, err
		}
	}
	return nil, fmt.Errorf("no name is free: %w", err)
}

// claimFree claims a name, unless there is an interface that has it. It fails with
// errTaken then.
func claimFree(name string) (*table, error) {
	if len(name) > 15 || strings.ContainsAny(name, "/: \t\n") || name == "." || name == ".." {
		return nil, fmt.Errorf("%q can't be the name of a bridge: it takes 1 to 15 characters, without slash, colon and space", name)
	}
	l, err := link(name)
	if err != nil {
		return nil, err
	}
	if l != nil {
		return nil, fmt.Errorf("%s: %w: it is a network interface already, of another daemon or somebody else; configure another name, or none", name, errTaken)
	}
	return claim(name)
}

// candidates are the subnets that are tried, of the ranges for private networks.
func candidates() []netip.Prefix {
	var all []netip.Prefix
	for i := 11; i < 100; i++ {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16))
	}
	for i := 20; i < 32; i++ {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i), 0, 0}), 16))
	}
	for i := 128; i < 256; i++ {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24))
	}
	return all
}

// choose gives the configured subnet, or one that is free.
func choose(configured string) (netip.Prefix, error) {
	used, err := destinations()
	if err != nil {
		return netip.Prefix{}, err
	}
	if configured != "" {
		subnet, err := parseSubnet(configured)
		for _, d := range used {
			// Inside of a larger one, a bridge may well be wanted.
			if err == nil && d.to.Overlaps(subnet) && d.to.Bits() >= subnet.Bits() {
				err = fmt.Errorf("subnet %s: network interface %s has %s of it; configure another one, or none", subnet, d.by, d.to)
			}
		}
		return subnet, err
	}
	for _, subnet := range candidates() {
		if !overlaps(subnet, used) {
			return subnet, nil
		}
	}
	return netip.Prefix{}, errors.New("every private subnet is in use here; configure one")
}

func overlaps(subnet netip.Prefix, used []destination) bool {
	for _, d := range used {
		if d.to.Overlaps(subnet) {
			return true
		}
	}
	return false
}

// destination is where a route of this machine leads.
type destination struct {
	to netip.Prefix
	by string // the interface's name
}

// destinations gives those of all routing tables, which have the machine's own
// addresses as well, but not the default routes.
func destinations() ([]destination, error) {
	interfaces, err := links()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range interfaces {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	routes, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	var all []destination
	for _, r := range routes {
		if to, ok := prefix(r.Dst); ok && to.Bits() > 0 {
			all = append(all, destination{to: to, by: names[r.LinkIndex]})
		}
	}
	return all, nil
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits), ok
}
