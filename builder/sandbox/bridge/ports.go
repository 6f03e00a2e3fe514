package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox/netns"
	"github.com/kiln-build/kiln/builder/sandbox/netpool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ports connects namespaces with the bridge. It implements netpool.Connector.
type ports struct {
	bridge    netlink.Link
	addresses *addresses
}

// inside is the name of a namespace's interface.
const inside = "eth0"

// outside is the name of the host's end. Programs that configure interfaces leave
// alone what is called so.
func outside(ns *netpool.Namespace) string { return "veth" + ns.ID[:11] }

// Connect implements netpool.Connector.
func (p *ports) Connect(ctx context.Context, ns *netpool.Namespace) error {
	f, err := os.Open(ns.Path())
	if err != nil {
		return err
	}
	defer f.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = outside(ns), p.bridge.Attrs().MTU, p.bridge.Attrs().Index
	port := &netlink.Veth{LinkAttrs: attrs, PeerName: inside, PeerNamespace: netlink.NsFd(f.Fd())}
	if err := netlink.LinkAdd(port); err != nil {
		if errors.Is(err, unix.EXFULL) {
			err = errors.New("it has as many ports as a bridge can have")
		}
		return fmt.Errorf("connect with bridge %s: %w", p.bridge.Attrs().Name, err)
	}
	// Isolated ports reach the bridge itself, and no others.
	if err := netlink.LinkSetIsolated(port, true); err != nil {
		return fmt.Errorf("isolate network interface %s: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetUp(port); err != nil {
		return fmt.Errorf("start network interface %s: %w", attrs.Name, err)
	}
	addr, err := p.addresses.take(ns.ID)
	if err != nil {
		return err
	}
	if err := netns.Do(ns.Path(), func() error { return p.furnish(ctx, addr) }); err != nil {
		return err
	}
	if err := waitUp(ctx, attrs.Name); err != nil {
		return err
	}
	return waitUp(ctx, p.bridge.Attrs().Name) // it is down without ports
}

// furnish gives the namespace's end an address and a way out.
func (p *ports) furnish(ctx context.Context, addr netip.Addr) error {
	l, err := netlink.LinkByName(inside)
	if err != nil {
		return fmt.Errorf("network interface %s: %w", inside, err)
	}
	if err := netlink.AddrAdd(l, address(addr, p.addresses.subnet.Bits())); err != nil {
		return fmt.Errorf("give a network the address %s: %w", addr, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("start network interface %s: %w", inside, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: p.addresses.gateway.AsSlice()}); err != nil {
		return fmt.Errorf("route by %s: %w", p.addresses.gateway, err)
	}
	return waitUp(ctx, inside)
}

// waitUp waits until the kernel has noticed that there is something at the other end of
// an interface, which it does a moment later. What is sent before that is lost, and who
// has sent it tries again after a second.
func waitUp(ctx context.Context, name string) error {
	for {
		l, err := netlink.LinkByName(name)
		if err != nil || l.Attrs().OperState == netlink.OperUp {
			return err
		}
		select {
		case <-time.After(200 * time.Microsecond):
		case <-ctx.Done():
			return fmt.Errorf("network interface %s does not start: %w", name, ctx.Err())
		}
	}
}

// Disconnect implements netpool.Connector.
func (p *ports) Disconnect(_ context.Context, ns *netpool.Namespace) error {
	if len(ns.ID) < 11 {
		return nil // not a network's name
	}
	l, err := link(outside(ns))
	if err == nil && l != nil {
		err = del(l)
	}
	if err == nil {
		p.addresses.give(ns.ID)
	}
	return err
}
