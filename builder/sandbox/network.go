package sandbox

import (
	"context"
	"fmt"
)

// NetworkProvider gives the network of processes that ask for NetworkDefault.
type NetworkProvider interface {
	// New makes, or takes from a pool, a network for one process. hostname is the
	// process' host name.
	New(ctx context.Context, hostname string) (NetworkNamespace, error)
}

// NetworkNamespace is a network that belongs to one run.
type NetworkNamespace interface {
	// Path is the file of the network namespace, such as /run/netns/x.
	Path() string
	// Close gives it back. Processes that were in it have ended.
	Close() error
}

// network is where a run's processes are on the network: the host's namespace, a
// new one with nothing but loopback, or one that a provider gave.
type network struct {
	host  bool
	path  string
	close func() error
}

// newNetwork resolves n. The caller closes the result.
func newNetwork(ctx context.Context, n Network, p NetworkProvider, hostname string) (network, error) {
	nothing := func() error { return nil }
	switch {
	case n == NetworkNone:
		return network{close: nothing}, nil
	case n == NetworkHost, n == NetworkDefault && p == nil:
		return network{host: true, close: nothing}, nil
	case n != NetworkDefault:
		return network{}, fmt.Errorf("unknown network %v", n)
	}
	ns, err := p.New(ctx, hostname)
	if err != nil {
		return network{}, fmt.Errorf("make network: %w", err)
	}
	return network{path: ns.Path(), close: ns.Close}, nil
}
