package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox/netns"
)

// Egress is where a proxy makes its own connections.
type Egress struct {
	// Namespace is the file of the network namespace; "" is this process' own.
	Namespace string
	// Nameservers are addresses, asked from there; none: those of this machine.
	Nameservers []string
	// Hosts have an address that no name server is asked for, by lower-case name.
	Hosts map[string]string
}

// dialTimeout bounds an attempt to reach one address, maxAddresses how many of a
// host's are tried.
const (
	dialTimeout  = 15 * time.Second
	maxAddresses = 8
)

// dial connects to a host and port.
func (e *Egress) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs, err := e.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range addrs[:min(len(addrs), maxAddresses)] {
		conn, err := e.connect(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// connect connects to an address that is none of a name.
func (e *Egress) connect(ctx context.Context, network, address string) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: dialTimeout}
	if e.Namespace == "" {
		return d.DialContext(ctx, network, address)
	}
	err = netns.Do(e.Namespace, func() error {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// lookup gives the addresses of a host, at least one.
func (e *Egress) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if known, ok := e.Hosts[strings.ToLower(host)]; ok {
		host = known
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	var asked atomic.Uint32
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if len(e.Nameservers) > 0 {
			i := int(asked.Add(1)-1) / 2 // both kinds of address are asked for
			address = net.JoinHostPort(e.Nameservers[i%len(e.Nameservers)], "53")
		}
		return e.connect(ctx, network, address)
	}}
	addrs, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("host %q has no address", host)
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	return addrs, nil
}
