package layer

import (
	"context"
	"runtime"
	"sync"

	"github.com/containerd/log"

	"github.com/kiln-build/kiln/builder/event"
)

// background makes blobs before anybody asks for them.
type background struct {
	ctx    context.Context
	cancel context.CancelFunc
	slots  chan struct{}

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup
}

func (b *background) init() {
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.slots = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
}

// Prepare starts making the layer's blob with the default compression, beside
// whatever comes next; Blobs will find it. A layer that came from a blob needs
// none. Failures only show when Blobs makes the blob again.
func (s *Store) Prepare(l *Layer) {
	if l == nil || l.source != nil {
		return
	}
	b := &s.background
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.work.Go(func() {
		select {
		case b.slots <- struct{}{}:
			defer func() { <-b.slots }()
		case <-b.ctx.Done():
			return
		}
		if _, err := s.blob(s.store.Context(b.ctx), l, Compression{}, event.Progress{}); err != nil && b.ctx.Err() == nil {
			log.G(b.ctx).WithError(err).WithField("layer", l.Name).Debug("the layer's blob wasn't made ahead")
		}
	})
}

func (b *background) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.work.Wait()
}
