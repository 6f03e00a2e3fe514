// Package netpool keeps networks for processes.
//
// A network that a process leaves waits for another one, since making and removing
// it take longer than many steps, and some can be made before anybody asks.
package netpool

import (
	"context"
	"time"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/sandbox"
)

// Network is a network namespace that is connected with the world.
type Network interface {
	// Path is the file of the namespace.
	Path() string
	// Remove disconnects and removes it. Nobody is in it.
	Remove(ctx context.Context) error
}

// Maker makes a network for a process with the host name, which is "" if it may be
// anyone's. It may be called while it runs.
type Maker func(ctx context.Context, hostname string) (Network, error)

// callTimeout bounds what is done with one network.
const callTimeout = time.Minute

// Pool implements sandbox.NetworkProvider.
type Pool struct {
	maker Maker
	idle  *idle
}

var _ sandbox.NetworkProvider = (*Pool)(nil)

// New makes a pool, which keeps some networks ready, in the background. Close it.
func New(ready int, maker Maker) *Pool {
	p := &Pool{maker: maker}
	p.idle = newIdle(ready, p.any, remove)
	p.idle.fill()
	return p
}

// Close removes all networks that nobody has; those that somebody has go when
// they are given back.
func (p *Pool) Close() { p.idle.close() }

// New implements sandbox.NetworkProvider. A network for a host name is used once.
func (p *Pool) New(ctx context.Context, req sandbox.NetworkRequest) (sandbox.NetworkNamespace, error) {
	if req.Hostname == "" && !req.Exclusive {
		return p.idle.get(ctx)
	}
	l, err := p.make(ctx, req.Hostname)
	if err != nil {
		return nil, err
	}
	l.exclusive = true
	return l, nil
}

// lent is a network that processes have, one after the other. It implements
// sandbox.NetworkNamespace.
type lent struct {
	Network
	pool      *Pool
	exclusive bool
	idleSince time.Time // while it waits
}

// Close implements sandbox.NetworkNamespace.
func (l *lent) Close() error {
	if l.exclusive {
		l.pool.idle.discard(l)
	} else {
		l.pool.idle.put(l)
	}
	return nil
}

func (p *Pool) any(ctx context.Context) (*lent, error) { return p.make(ctx, "") }

// make makes a network. That isn't interrupted: what is left half done may be
// impossible to undo.
func (p *Pool) make(ctx context.Context, hostname string) (*lent, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	n, err := p.maker(ctx, hostname)
	if err != nil {
		return nil, err
	}
	return &lent{Network: n, pool: p}, nil
}

func remove(l *lent) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := l.Remove(ctx); err != nil {
		log.G(ctx).WithError(err).Warnf("network %s is left over", l.Path())
	}
}
