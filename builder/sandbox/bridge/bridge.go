// Package bridge gives processes networks of their own on a bridge, which needs
// nothing but the kernel.
//
// Each network has an address of the bridge's subnet, and reaches the outside
// through the host, which puts its own address into the packets' place. Nobody
// reaches a network: neither others on the bridge, nor others through the host.
//
// All that a provider makes besides the networks is a bridge and a table of
// nftables. The table belongs to the provider's socket: nobody else can change
// it, and the kernel removes it when the process ends, however it ends. So the
// table also says whether the one who has made a bridge is alive, and every
// provider begins with removing the bridges of those who aren't. Network
// namespaces are open files of the process. Nothing is on disk.
//
// A host's firewall of iptables (by way of nftables) drops what it doesn't know,
// where Docker or the like has set it up; it gets two rules that let the bridge's
// packets through (passage.go). So does firewalld, which is asked for the same.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/netpool"
	"github.com/vishvananda/netlink"
)

// Config says what the bridge is.
type Config struct {
	// Name is the bridge's. If it is empty, the first one of kiln0, kiln1... that
	// nothing else has is taken.
	Name string
	// Subnet has the addresses ("10.0.0.0/16"). If it is empty, one is taken that this
	// machine has nothing in, and no route to.
	Subnet string
	// Ready is how many networks are made before anybody asks for them.
	Ready int
}

// Provider implements sandbox.NetworkProvider.
type Provider struct {
	pool  *netpool.Pool
	ports *ports
	table *table

	mu sync.Mutex // held while the host's firewall is looked at
	// looked is when that was done last.
	looked time.Time
	closed bool
}

var _ sandbox.NetworkProvider = (*Provider)(nil)

// Open makes the bridge. Where this machine or its kernel doesn't allow that, it
// fails and leaves nothing. Close the provider.
func Open(ctx context.Context, cfg Config) (*Provider, error) {
	var p *Provider
	err := alone(ctx, func() (err error) {
		p, err = open(ctx, cfg)
		return err
	})
	if err != nil {
		if p != nil {
			err = errors.Join(err, p.Close())
		}
		return nil, fmt.Errorf("bridge for networks of processes: %w", err)
	}
	return p, nil
}

// open makes the bridge while nobody else does.
func open(ctx context.Context, cfg Config) (_ *Provider, err error) {
	if err := removeDead(); err != nil {
		return nil, err
	}
	t, err := claimBridge(cfg.Name)
	if err != nil {
		return nil, err
	}
	p := &Provider{table: t}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.removeBridge())
		}
	}()
	subnet, err := choose(cfg.Subnet)
	if err != nil {
		return nil, err
	}
	if p.ports, err = makeBridge(t.name, subnet); err != nil {
		return nil, err
	}
	if err := forward(); err != nil {
		return nil, err
	}
	if err := t.write(subnet); err != nil {
		return nil, err
	}
	p.letThrough(ctx)
	t.warnOfOthers(ctx)
	p.pool = netpool.New(cfg.Ready, p.ports.make)
	return p, nil
}

// Sweep removes the bridges of providers that were killed.
func Sweep(ctx context.Context) error {
	all, err := marked()
	if err != nil || len(all) == 0 {
		return err
	}
	return alone(ctx, removeDead)
}

// Close removes the bridge, and all networks that nobody has; those that somebody
// has are disconnected. It may be called again.
func (p *Provider) Close() error {
	p.pool.Close()
	return p.removeBridge()
}

// removeBridge removes what has the claimed name, and gives that up.
func (p *Provider) removeBridge() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	l, err := link(p.table.name)
	if err == nil && l != nil {
		err = removeLink(l)
	}
	return errors.Join(err, p.table.removePassage(), theFirewalld.forget(context.Background(), p.table.name), p.table.release())
}

// New implements sandbox.NetworkProvider. Host names mean nothing to a bridge.
func (p *Provider) New(ctx context.Context, req sandbox.NetworkRequest) (sandbox.NetworkNamespace, error) {
	p.letThrough(ctx)
	return p.pool.New(ctx, sandbox.NetworkRequest{Exclusive: req.Exclusive})
}

// lookEvery is how often the host's firewall is looked at, at most: others set it up
// anew without saying so.
const lookEvery = 5 * time.Second

// letThrough sees to it that the host's firewall lets packets through.
func (p *Provider) letThrough(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || time.Since(p.looked) < lookEvery {
		return
	}
	p.looked = time.Now()
	if err := errors.Join(p.table.makePassage(), theFirewalld.trust(ctx, p.table.name)); err != nil {
		log.G(ctx).WithError(err).Warnf("the host's firewall may drop what is sent on bridge %s", p.table.name)
	}
}

// forward has the kernel pass on packets between interfaces.
func forward() error {
	const file = "/proc/sys/net/ipv4/ip_forward"
	now, err := os.ReadFile(file)
	if err == nil && string(now) != "1\n" {
		err = os.WriteFile(file, []byte("1"), 0)
	}
	if err != nil {
		return fmt.Errorf("turn on net.ipv4.ip_forward: %w", err)
	}
	return nil
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
