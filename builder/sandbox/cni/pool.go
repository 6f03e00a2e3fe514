package cni

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/log"
)

// keepIdle is how long a network that nobody has waits to be used again.
const keepIdle = time.Minute

// pool has the networks that wait for a process.
type pool struct {
	ready  int // are kept, however long they wait
	keep   time.Duration
	make   func(context.Context) (*namespace, error)
	remove func(*namespace)

	work sync.WaitGroup // in the background
	mu   sync.Mutex
	idle []*namespace // the last used one last
	// trim removes what has waited for too long, some time after the last one
	// came back.
	trim   *time.Timer
	closed bool
}

func newPool(ready int, make func(context.Context) (*namespace, error), remove func(*namespace)) *pool {
	return &pool{ready: ready, keep: keepIdle, make: make, remove: remove}
}

// fill begins to make the networks that are to be ready.
func (p *pool) fill() {
	p.background(func() {
		for p.missing() {
			ns, err := p.make(context.Background())
			if err != nil {
				log.L.WithError(err).Warn("no network can be kept ready")
				return
			}
			p.put(ns)
		}
	})
}

func (p *pool) missing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed && len(p.idle) < p.ready
}

// get takes the network that was used last, or makes one.
func (p *pool) get(ctx context.Context) (*namespace, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		ns := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return ns, nil
	}
	p.mu.Unlock()
	return p.make(ctx)
}

// put gives a network back.
func (p *pool) put(ns *namespace) {
	if !p.park(ns) {
		p.remove(ns)
	}
}

// park lets a network wait, unless the pool is closed.
func (p *pool) park(ns *namespace) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	ns.idleSince = time.Now()
	p.idle = append(p.idle, ns)
	if p.trim == nil {
		p.trim = time.AfterFunc(p.keep, p.trimIdle)
	} else {
		p.trim.Reset(p.keep)
	}
	return true
}

// discard removes a network in the background, or at once when the pool is
// closed.
func (p *pool) discard(ns *namespace) {
	if !p.background(func() { p.remove(ns) }) {
		p.remove(ns)
	}
}

// trimIdle removes the networks that have waited for too long.
func (p *pool) trimIdle() {
	p.background(func() {
		p.mu.Lock()
		var old []*namespace
		for len(p.idle) > p.ready && time.Since(p.idle[0].idleSince) >= p.keep {
			old = append(old, p.idle[0])
			p.idle = p.idle[1:]
		}
		p.mu.Unlock()
		for _, ns := range old {
			p.remove(ns)
		}
	})
}

// background runs f, unless the pool is closed.
func (p *pool) background(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.work.Go(f)
	return true
}

// close removes all that wait, and waits for what happens in the background.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	if p.trim != nil {
		p.trim.Stop()
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, ns := range idle {
		wg.Go(func() { p.remove(ns) })
	}
	wg.Wait()
	p.work.Wait()
}
