package layer

import (
	"context"
	"sync"
)

// fetchAhead is how many layers are fetched at the same time.
const fetchAhead = 4

// fetches are the downloads of an image's layers, which run ahead of the
// unpacking.
type fetches struct {
	img  Image
	done []chan error // of each layer, once started
	wg   sync.WaitGroup
}

// fetched waits for layer i; to be called once, in the layers' order. The first
// call starts the downloads of that layer and those above it: not earlier,
// because a lazy snapshotter may have what lies below.
func (f *fetches) fetched(ctx context.Context, i int) error {
	if f.img.Fetch == nil {
		return nil
	}
	if f.done == nil {
		f.start(ctx, i)
	}
	select {
	case err := <-f.done[i]:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *fetches) start(ctx context.Context, from int) {
	f.done = make([]chan error, len(f.img.Layers))
	for i := from; i < len(f.done); i++ {
		f.done[i] = make(chan error, 1)
	}
	slots := make(chan struct{}, fetchAhead)
	f.wg.Go(func() {
		for i := from; i < len(f.done); i++ {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			f.wg.Go(func() {
				defer func() { <-slots }()
				f.done[i] <- f.img.Fetch(ctx, f.img.Layers[i])
			})
		}
	})
}
