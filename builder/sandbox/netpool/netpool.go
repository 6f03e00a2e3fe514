// Package netpool gives processes networks of their own, and leaves it to
// others to connect them.
//
// A network that a process leaves waits for another one, since making and
// removing it take longer than many steps. Each is a network namespace that is
// mounted on a file of the pool's directory, where the next pool finds those of
// a process that was killed.
package netpool

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/netns"
)

// Connector connects namespaces with the world. Its methods may be called at the
// same time, for different namespaces.
type Connector interface {
	// Connect connects a new namespace, whose loopback is up. If it fails,
	// Disconnect is called.
	Connect(ctx context.Context, ns *Namespace) error
	// Disconnect undoes what Connect has done, in so far as it got. The namespace
	// may be one of an earlier process's, and is removed afterwards. If it fails, the
	// namespace is kept for the next pool.
	Disconnect(ctx context.Context, ns *Namespace) error
}

// callTimeout bounds what a Connector does with one namespace.
const callTimeout = time.Minute

// Pool implements sandbox.NetworkProvider.
type Pool struct {
	dir  string
	by   Connector
	idle *idle
	tidy sync.WaitGroup // removal of what an earlier pool left
}

var _ sandbox.NetworkProvider = (*Pool)(nil)

// Open removes what an earlier pool has left in the directory, which is made if
// absent, and keeps some networks ready, in the background. Close the pool.
func Open(dir string, ready int, by Connector) (*Pool, error) {
	p := &Pool{dir: dir, by: by}
	p.idle = newIdle(ready, p.make, p.remove)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range left {
		p.tidy.Go(func() { p.remove(&Namespace{pool: p, ID: e.Name()}) })
	}
	p.idle.fill()
	return p, nil
}

// Clear removes what a pool has left in the directory, where nothing is
// connected in a way that outlives a namespace.
func Clear(dir string) error {
	left, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	}
	for _, e := range left {
		if err := netns.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return err
}

// Close removes all networks that nobody has; those that somebody has go when
// they are given back.
func (p *Pool) Close() {
	p.tidy.Wait()
	p.idle.close()
}

// New implements sandbox.NetworkProvider. A network for a host name is used once.
func (p *Pool) New(ctx context.Context, req sandbox.NetworkRequest) (sandbox.NetworkNamespace, error) {
	if req.Hostname == "" && !req.Exclusive {
		return p.idle.get(ctx)
	}
	ns, err := p.create(ctx, req.Hostname)
	if err != nil {
		return nil, err
	}
	ns.exclusive = true
	return ns, nil
}

// Namespace is a network. It implements sandbox.NetworkNamespace.
type Namespace struct {
	// ID is random, of lower case letters and digits.
	ID string
	// Hostname is that of the process that it was made for, "" if it may be anyone's.
	Hostname string

	pool      *Pool
	exclusive bool
	idleSince time.Time // while it waits
}

// Path implements sandbox.NetworkNamespace.
func (n *Namespace) Path() string { return filepath.Join(n.pool.dir, n.ID) }

// Exists tells whether the namespace is there. Those that an earlier boot of the
// machine left are files only.
func (n *Namespace) Exists() bool { return netns.Is(n.Path()) }

// Close implements sandbox.NetworkNamespace.
func (n *Namespace) Close() error {
	if n.exclusive {
		n.pool.idle.discard(n)
	} else {
		n.pool.idle.put(n)
	}
	return nil
}

func (p *Pool) make(ctx context.Context) (*Namespace, error) { return p.create(ctx, "") }

// create makes a network and has it connected. That isn't interrupted: what is
// left half done may be impossible to undo.
func (p *Pool) create(ctx context.Context, hostname string) (*Namespace, error) {
	ns := &Namespace{pool: p, ID: strings.ToLower(rand.Text()), Hostname: hostname}
	if err := netns.Make(ns.Path()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := p.by.Connect(ctx, ns); err != nil {
		p.remove(ns)
		return nil, fmt.Errorf("connect a network: %w", err)
	}
	return ns, nil
}

// remove disconnects a network and forgets it. What can't be disconnected is
// tried again by the next pool.
func (p *Pool) remove(ns *Namespace) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	err := p.by.Disconnect(ctx, ns)
	if err == nil {
		err = netns.Remove(ns.Path())
	}
	if err != nil {
		log.G(ctx).WithError(err).Warnf("network %s is left over", ns.ID)
	}
}
