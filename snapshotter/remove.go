package snapshotter

import (
	"context"
	"sync"

	"github.com/containerd/log"
)

// removal removes directories in the background, one after the other.
type removal struct {
	remove func(ctx context.Context, batch []*node)

	mu     sync.Mutex
	queue  []*node
	busy   chan struct{} // closed when the queue is empty; nil while nothing is done
	closed bool
	ctx    context.Context
	cancel context.CancelFunc
}

func (r *removal) start(ctx context.Context, remove func(ctx context.Context, batch []*node)) {
	r.remove = remove
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
}

// add takes a directory on. After close it waits for the next start.
func (r *removal) add(n *node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.queue = append(r.queue, n)
	if r.busy == nil {
		r.busy = make(chan struct{})
		go r.work(r.busy)
	}
}

func (r *removal) work(done chan struct{}) {
	defer close(done)
	for {
		r.mu.Lock()
		batch := r.queue
		r.queue = nil
		if len(batch) == 0 {
			r.busy = nil
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		r.remove(r.ctx, batch)
	}
}

// wait returns when everything that was added is removed.
func (r *removal) wait(ctx context.Context) error {
	r.mu.Lock()
	busy := r.busy
	r.mu.Unlock()
	if busy == nil {
		return nil
	}
	select {
	case <-busy:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close stops after the directory at hand. What is left is removed at the next
// start.
func (r *removal) close() {
	r.mu.Lock()
	r.closed = true
	r.cancel()
	busy := r.busy
	r.mu.Unlock()
	if busy != nil {
		<-busy
	}
}

// removeAll removes directories, and what the databases say of them.
func (s *Snapshotter) removeAll(ctx context.Context, batch []*node) {
	var gone []*node
	for _, n := range batch {
		if ctx.Err() != nil {
			break
		}
		if err := s.removeDir(ctx, n); err != nil {
			log.G(ctx).WithError(err).Warnf("remove directory %s of a snapshot; it is tried again at the next start", n.id)
			continue
		}
		gone = append(gone, n)
	}
	for _, sp := range s.spaces() {
		if err := sp.forget(gone); err != nil {
			log.G(ctx).WithError(err).Warn("forget removed directories of snapshots")
		}
	}
}

// Cleanup returns when the directories of removed snapshots are gone.
func (d *disk) Cleanup(ctx context.Context) error { return d.removal.wait(ctx) }
