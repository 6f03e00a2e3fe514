package netpool

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/log"
)

// keepIdle is how long a network that nobody has waits to be used again.
const keepIdle = time.Minute

// idle has the networks that wait for a process.
type idle struct {
	ready  int // so many are kept, however long they wait
	keep   time.Duration
	make   func(context.Context) (*lent, error)
	remove func(*lent)

	work    sync.WaitGroup // in the background
	mu      sync.Mutex
	waiting []*lent // the last used one last
	filling bool
	// trim removes what has waited for too long, some time after the last one
	// came back.
	trim   *time.Timer
	closed bool
}

func newIdle(ready int, make func(context.Context) (*lent, error), remove func(*lent)) *idle {
	return &idle{ready: ready, keep: keepIdle, make: make, remove: remove}
}

// fill begins to make the networks that are to be ready, unless that is being done.
func (p *idle) fill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.filling || p.closed || len(p.waiting) >= p.ready {
		return
	}
	p.filling = true
	p.work.Go(func() {
		for p.missing() {
			ns, err := p.make(context.Background())
			if err != nil {
				log.L.WithError(err).Warn("no network can be kept ready")
				p.mu.Lock()
				p.filling = false
				p.mu.Unlock()
				return
			}
			p.put(ns)
		}
	})
}

// missing tells whether there is one more to be made; if not, filling has ended.
func (p *idle) missing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.filling = !p.closed && len(p.waiting) < p.ready
	return p.filling
}

// get takes the network that was used last, or makes one. Others are made in its
// place.
func (p *idle) get(ctx context.Context) (*lent, error) {
	defer p.fill()
	p.mu.Lock()
	if n := len(p.waiting); n > 0 {
		ns := p.waiting[n-1]
		p.waiting = p.waiting[:n-1]
		p.mu.Unlock()
		return ns, nil
	}
	p.mu.Unlock()
	return p.make(ctx)
}

// put gives a network back.
func (p *idle) put(ns *lent) {
	if !p.park(ns) {
		p.remove(ns)
	}
}

// park lets a network wait, unless the pool is closed.
func (p *idle) park(ns *lent) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	ns.idleSince = time.Now()
	p.waiting = append(p.waiting, ns)
	if p.trim == nil {
		p.trim = time.AfterFunc(p.keep, p.trimIdle)
	} else {
		p.trim.Reset(p.keep)
	}
	return true
}

// discard removes a network in the background, or at once when the pool is
// closed.
func (p *idle) discard(ns *lent) {
	if !p.background(func() { p.remove(ns) }) {
		p.remove(ns)
	}
}

// trimIdle removes the networks that have waited for too long.
func (p *idle) trimIdle() {
	p.background(func() {
		p.mu.Lock()
		var old []*lent
		for len(p.waiting) > p.ready && time.Since(p.waiting[0].idleSince) >= p.keep {
			old = append(old, p.waiting[0])
			p.waiting = p.waiting[1:]
		}
		p.mu.Unlock()
		for _, ns := range old {
			p.remove(ns)
		}
	})
}

// background runs f, unless the pool is closed.
func (p *idle) background(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.work.Go(f)
	return true
}

// close removes all that wait, and waits for what happens in the background.
func (p *idle) close() {
	p.mu.Lock()
	p.closed = true
	waiting := p.waiting
	p.waiting = nil
	if p.trim != nil {
		p.trim.Stop()
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, ns := range waiting {
		wg.Go(func() { p.remove(ns) })
	}
	wg.Wait()
	p.work.Wait()
}
