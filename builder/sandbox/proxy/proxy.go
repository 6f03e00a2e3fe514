// Package proxy makes networks that have nothing in them but an HTTP proxy, through
// which all goes that a process of a build fetches, and is recorded and checked.
//
//	process ─ eth0 ──veth── eth0 ─ listener │ Proxy ─ Check ─ transport │ Egress
//	its namespace           another one     │ this process              │ where the network is
//
// The two namespaces lead nowhere else, so that what doesn't use the proxy finds no
// route. TLS is opened: the process is told to trust an [Authority] of its build.
//
// Everything that comes from the process is hostile. Each [Network] has a limit of
// connections, requests have limits of size and time, and their bodies are passed on
// as they come. A request's URL is what it is sent to: neither the Host header nor
// the name in the TLS handshake can say otherwise.
package proxy

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/kiln-build/kiln/builder/event"
)

// Proxy is that of one step, which runs once. Its records can be read when the
// networks are closed.
type Proxy struct {
	authority *Authority

	mu   sync.Mutex
	all  []*event.Fetch
	size int // of all that is kept, in bytes
	lost int // requests that are not in all
}

const (
	// maxKept and maxKeptSize bound what is remembered of requests, the latter in
	// bytes.
	maxKept     = 5000
	maxKeptSize = 4 << 20
)

// New makes a proxy.
func (a *Authority) New() *Proxy { return &Proxy{authority: a} }

// Certificate is that of the authority, in PEM, which processes have to trust.
func (p *Proxy) Certificate() []byte { return p.authority.pem }

// Env are the variables by which programs find the proxy, whatever others are called.
func (p *Proxy) Env() []string {
	var env []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		env = append(env, name+"=http://"+listenAddress, strings.ToLower(name)+"=http://"+listenAddress)
	}
	return append(env, "NO_PROXY="+noProxy, "no_proxy="+noProxy)
}

// noProxy are the hosts that are a process' own.
const noProxy = "127.0.0.1,localhost,::1"

// record keeps a request. What is not known yet can be added by change, which may
// come late or never.
func (p *Proxy) record(f event.Fetch) (change func(func(*event.Fetch))) {
	p.mu.Lock()
	defer p.mu.Unlock()
	size := len(f.URL) + len(f.Location) + len(f.Method)
	if len(p.all) >= maxKept || p.size+size > maxKeptSize {
		p.lost++
		return func(func(*event.Fetch)) {}
	}
	p.size += size
	p.all = append(p.all, &f)
	return func(set func(*event.Fetch)) {
		p.mu.Lock()
		defer p.mu.Unlock()
		set(&f)
	}
}

// Fetches are the requests, and how many more there were.
func (p *Proxy) Fetches() (all []event.Fetch, more int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.all {
		all = append(all, *f)
	}
	return slices.Clip(all), p.lost
}

// Summary lists the requests for people, a line each; "" if there were none.
func (p *Proxy) Summary() string {
	all, more := p.Fetches()
	if len(all) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("proxy network requests:\n")
	for _, f := range all {
		fmt.Fprintf(&b, "- %s %s -> %d\n", f.Method, f.URL, f.Status)
	}
	if more > 0 {
		fmt.Fprintf(&b, "- and %d more\n", more)
	}
	return b.String()
}
