package bridge

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox/netns"
	"github.com/kiln-build/kiln/builder/sandbox/netpool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ports connects networks with the bridge.
type ports struct {
	bridge    netlink.Link
	addresses *addresses
}

// inside is the name of a namespace's interface.
const inside = "eth0"

// network is a namespace that is connected. It implements netpool.Network.
type network struct {
	ports     *ports
	namespace *os.File
	path      string
	// outside is the name of the host's end of the wire. Programs that configure
	// interfaces leave alone what is called so.
	outside string
}

// make implements netpool.Maker. Host names mean nothing to a bridge.
func (p *ports) make(ctx context.Context, _ string) (netpool.Network, error) {
	f, err := netns.New()
	if err != nil {
		return nil, err
	}
	n := &network{
		ports: p, namespace: f, path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()),
		outside: "veth" + strings.ToLower(rand.Text()[:11]),
	}
	if err := n.connect(ctx); err != nil {
		return nil, errors.Join(err, n.Remove(ctx))
	}
	return n, nil
}

// Path implements netpool.Network.
func (n *network) Path() string { return n.path }

// connect lays a wire.
func (n *network) connect(ctx context.Context) error {
	bridge := n.ports.bridge.Attrs()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = n.outside, bridge.MTU, bridge.Index
	port := &netlink.Veth{LinkAttrs: attrs, PeerName: inside, PeerNamespace: netlink.NsFd(n.namespace.Fd())}
	if err := netlink.LinkAdd(port); err != nil {
		if errors.Is(err, unix.EXFULL) {
			err = errors.New("it has as many ports as a bridge can have")
		}
		return fmt.Errorf("connect with bridge %s: %w", bridge.Name, err)
	}
	// Isolated ports reach the bridge itself, and no others.
	if err := netlink.LinkSetIsolated(port, true); err != nil {
		return fmt.Errorf("isolate network interface %s: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetUp(port); err != nil {
		return fmt.Errorf("start network interface %s: %w", attrs.Name, err)
	}
	addr, err := n.ports.addresses.take(n.outside)
	if err != nil {
		return err
	}
	if err := netns.Do(n.path, func() error { return n.ports.furnish(ctx, addr) }); err != nil {
		return err
	}
	if err := waitUp(ctx, attrs.Name); err != nil {
		return err
	}
	return waitUp(ctx, bridge.Name) // it is down without ports
}

// Remove implements netpool.Network.
func (n *network) Remove(context.Context) error {
	defer n.namespace.Close()
	l, err := link(n.outside)
	if err == nil && l != nil {
		err = del(l)
	}
	if err == nil {
		n.ports.addresses.give(n.outside)
	}
	return err
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
