package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kiln-build/kiln/builder/sandbox/proxy"
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
	env   []string // variables that say how to use it
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

// proxied tells whether a proxy stands between the processes and their network.
func (s *Spec) proxied() bool { return s.Proxy != nil && s.Network != NetworkNone }

// proxiedNetwork gives the network of a process that reaches nothing but a proxy,
// which goes on in the network that the process would have had. The process can't
// change that one, whatever it may do.
func (l *Local) proxiedNetwork(ctx context.Context, r *run) (network, error) {
	out, err := newNetwork(ctx, Spec{Network: r.Spec.Network, Hostname: DefaultHostname}, l.cfg.Network)
	if err != nil {
		return network{}, err
	}
	resolv, err := resolvFile("/", out, l.cfg.DNS)
	if err != nil {
		return network{}, errors.Join(err, out.close())
	}
	egress := proxy.Egress{Namespace: out.path, Nameservers: parseResolvConf(resolv).nameservers, Hosts: map[string]string{}}
	for _, h := range r.ExtraHosts {
		egress.Hosts[strings.ToLower(h.Name)] = h.IP
	}
	n, err := r.Proxy.Open(proxy.Place{Dir: r.bundle, Egress: egress})
	if err != nil {
		return network{}, errors.Join(err, out.close())
	}
	return network{path: n.Path(), env: r.Proxy.Env(), close: func() error { return errors.Join(n.Close(), out.close()) }}, nil
}

// replaceEnv gives env with the variables, instead of those of the same names.
func replaceEnv(env, with []string) []string {
	names := map[string]bool{}
	for _, v := range with {
		name, _, _ := strings.Cut(v, "=")
		names[name] = true
	}
	kept := slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return names[name]
	})
	return append(kept, with...)
}
