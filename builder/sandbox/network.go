package sandbox

import (
	"context"
	"fmt"
)

// NetworkProvider gives the network of processes that ask for NetworkDefault.
type NetworkProvider interface {
	// New makes, or takes from a pool, a network for one process.
	New(ctx context.Context, req NetworkRequest) (NetworkNamespace, error)
}

// NetworkRequest says for whom a network is.
type NetworkRequest struct {
	// Hostname is the host name that was chosen for the process, "" if none was.
	Hostname string
	// Exclusive: nobody else may get the network afterwards, since the process
	// can change it.
	Exclusive bool
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

// new tells whether the network begins with the process.
func (n network) new() bool { return !n.host && n.path == "" }

// newNetwork gives the network of a process. The caller closes it.
func newNetwork(ctx context.Context, s Spec, p NetworkProvider) (network, error) {
	n := s.Network
	nothing := func() error { return nil }
	switch {
	case n == NetworkNone:
		return network{close: nothing}, nil
	case n == NetworkHost, n == NetworkDefault && p == nil:
		return network{host: true, close: nothing}, nil
	case n != NetworkDefault:
		return network{}, fmt.Errorf("unknown network %v", n)
	}
	req := NetworkRequest{Exclusive: s.Security == Insecure}
	if s.Hostname != DefaultHostname {
		req.Hostname = s.Hostname
	}
	ns, err := p.New(ctx, req)
	if err != nil {
		return network{}, fmt.Errorf("make network: %w", err)
	}
	return network{path: ns.Path(), close: ns.Close}, nil
}
