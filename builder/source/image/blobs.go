package image

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/store"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// blobs brings blobs into the content store. Those who want the same blob at
// the same time share one transfer.
type blobs struct {
	store *store.Store

	mu   sync.Mutex
	busy map[digest.Digest]chan struct{} // closed when the transfer has ended
}

// have says whether the blob is here, and puts it on the lease that ctx
// carries.
func (b *blobs) have(ctx context.Context, d digest.Digest) (content.Info, bool, error) {
	info, err := b.store.Content.Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return info, false, nil
	}
	if err != nil {
		return info, false, err
	}
	lease, ok := leases.FromContext(ctx)
	if !ok {
		return info, true, nil
	}
	r := leases.Resource{ID: d.String(), Type: "content"}
	if err := b.store.Leases.AddResource(ctx, leases.Lease{ID: lease}, r); err != nil {
		return info, false, fmt.Errorf("keep blob %s: %w", d, err)
	}
	// It may have been collected before it was on the lease.
	info, err = b.store.Content.Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return info, false, nil
	}
	return info, err == nil, err
}

// ensure makes the blob be here, on the lease that ctx carries.
func (b *blobs) ensure(ctx context.Context, from remote, desc ocispec.Descriptor, progress event.Progress) error {
	for {
		info, ok, err := b.have(ctx, desc.Digest)
		if err != nil {
			return err
		}
		if ok {
			return b.label(ctx, from, info)
		}
		done, mine := b.start(desc.Digest)
		if mine {
			err := b.transfer(ctx, from, desc, progress)
			b.end(desc.Digest, done)
			return err
		}
		select {
		case <-done: // for better or worse
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (b *blobs) start(d digest.Digest) (done chan struct{}, mine bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if done, ok := b.busy[d]; ok {
		return done, false
	}
	if b.busy == nil {
		b.busy = map[digest.Digest]chan struct{}{}
	}
	done = make(chan struct{})
	b.busy[d] = done
	return done, true
}

func (b *blobs) end(d digest.Digest, done chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.busy, d)
	close(done)
}

// label notes where a blob that was here already could be had, too.
func (b *blobs) label(ctx context.Context, from remote, info content.Info) error {
	add := from.labels(info.Labels)
	if len(add) == 0 {
		return nil
	}
	fields := make([]string, 0, len(add))
	for k := range add {
		fields = append(fields, "labels."+k)
	}
	_, err := b.store.Content.Update(ctx, content.Info{Digest: info.Digest, Labels: add}, fields...)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
