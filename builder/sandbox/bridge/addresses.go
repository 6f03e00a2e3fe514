package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
)

// addresses says who has which address of a subnet. They lie in memory: networks
// do not outlive the provider.
type addresses struct {
	subnet  netip.Prefix
	gateway netip.Addr // the first one, the bridge's

	mu    sync.Mutex
	taken map[netip.Addr]string // by whom
	last  netip.Addr            // was taken last; the next ones are those that were free for longest
}

func newAddresses(subnet netip.Prefix) *addresses {
	first := subnet.Addr().Next()
	return &addresses{subnet: subnet, gateway: first, last: first, taken: map[netip.Addr]string{}}
}

// take gives an address to somebody.
func (a *addresses) take(who string) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	first := a.after(a.last)
	for addr := first; ; {
		if _, taken := a.taken[addr]; !taken {
			a.taken[addr], a.last = who, addr
			return addr, nil
		}
		if addr = a.after(addr); addr == first {
			return netip.Addr{}, fmt.Errorf("all %d addresses of %s are taken", len(a.taken), a.subnet)
		}
	}
}

// after is the address after one, from the one after the gateway to the last but the
// broadcast address, around.
func (a *addresses) after(addr netip.Addr) netip.Addr {
	addr = addr.Next()
	if !a.subnet.Contains(addr.Next()) {
		return a.gateway.Next()
	}
	return addr
}

// give takes back what somebody has, if anything.
func (a *addresses) give(who string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for addr, by := range a.taken {
		if by == who {
			delete(a.taken, addr)
		}
	}
}

// parseSubnet reads what is configured.
func parseSubnet(text string) (netip.Prefix, error) {
	subnet, err := netip.ParsePrefix(text)
	if err == nil && !subnet.Addr().Is4() {
		err = errors.New("it is not one of IPv4")
	}
	if err == nil && subnet.Bits() > 29 {
		err = errors.New("it is too small; a /16 is usual")
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("subnet %q: %w", text, err)
	}
	return subnet.Masked(), nil
}
