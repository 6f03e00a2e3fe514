package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mark is the hardware address of all bridges that this package makes, "kiln" after
// the bit that says that it isn't a vendor's. It comes into being with the bridge, so
// a bridge is recognised whenever its maker was killed. A bridge without a fixed
// address would also change it with its ports.
var mark = net.HardwareAddr{0x02, 'k', 'i', 'l', 'n', 0}

// makeBridge makes the bridge, which has the first address of the subnet.
func makeBridge(name string, subnet netip.Prefix) (*ports, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, mark, outsideMTU()
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(br); err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", name, err)
	}
	free := newAddresses(subnet)
	if err := netlink.AddrAdd(br, address(free.gateway, subnet.Bits())); err != nil {
		return nil, fmt.Errorf("give bridge %s its address: %w", name, err)
	}
	if err := netlink.LinkSetUp(br); err != nil {
		return nil, fmt.Errorf("start bridge %s: %w", name, err)
	}
	return &ports{bridge: br, addresses: free}, nil
}

func address(a netip.Addr, bits int) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}}
}

// outsideMTU is how long packets may be on the way out: that of the interface to the
// internet, or 0 if there is none. With more, who drops the notices that packets are
// too long makes connections hang.
func outsideMTU() int {
	routes, err := netlink.RouteGet(net.IPv4(1, 1, 1, 1))
	if err != nil || len(routes) == 0 {
		return 0
	}
	out, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil || out.Attrs().Flags&net.FlagLoopback != 0 {
		return 0
	}
	return out.Attrs().MTU
}

// marked gives the bridges that providers have made.
func marked() ([]netlink.Link, error) {
	all, err := links()
	if err != nil {
		return nil, err
	}
	var ours []netlink.Link
	for _, l := range all {
		if l.Type() == "bridge" && bytes.Equal(l.Attrs().HardwareAddr, mark) {
			ours = append(ours, l)
		}
	}
	return ours, nil
}

// removeDead removes the bridges of those who were killed. Nobody else makes one
// meanwhile.
func removeDead() error {
	all, err := marked()
	if err != nil {
		return err
	}
	for _, l := range all {
		t, err := claim(l.Attrs().Name)
		if errors.Is(err, errTaken) {
			continue // alive
		}
		if err != nil {
			return err
		}
		if err := errors.Join(removeLink(l), t.removePassage(), theFirewalld.forget(context.Background(), t.name), t.release()); err != nil {
			return fmt.Errorf("remove what an earlier process left: %w", err)
		}
	}
	return nil
}

// removeLink removes a bridge, and its ports with what they are connected to.
func removeLink(bridge netlink.Link) error {
	all, err := links()
	if err != nil {
		return err
	}
	for _, l := range all {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			if err := del(l); err != nil {
				return err
			}
		}
	}
	return del(bridge)
}

// del removes an interface, which may go by itself at the same time.
func del(l netlink.Link) error {
	err := netlink.LinkDel(l)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove network interface %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// links gives the network interfaces of the host.
func links() ([]netlink.Link, error) {
	all, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("network interfaces: %w", err)
	}
	return all, nil
}

// whole calls a function that lists what the kernel has until nothing has changed
// meanwhile, or a hundred times.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 100 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
