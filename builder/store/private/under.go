package private

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
)

// handOverFor makes the lease that ctx carries one of containerd's, before
// something of containerd's goes on it.
func (s *space) handOverFor(ctx context.Context) error {
	if id, ok := leases.FromContext(ctx); ok {
		return s.handOver(ctx, id)
	}
	return nil
}

// ingester is containerd's content store: what is written goes on a lease.
type ingester struct {
	content.Store
	s *space
}

// Writer implements [content.Ingester].
func (i ingester) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	if err := i.s.handOverFor(ctx); err != nil {
		return nil, err
	}
	return i.Store.Writer(ctx, opts...)
}

// imageStore is containerd's: an image goes on a lease.
type imageStore struct {
	images.Store
	s *space
}

// Create implements [images.Store].
func (i imageStore) Create(ctx context.Context, image images.Image) (images.Image, error) {
	if err := i.s.handOverFor(ctx); err != nil {
		return images.Image{}, err
	}
	return i.Store.Create(ctx, image)
}

// Update implements [images.Store].
func (i imageStore) Update(ctx context.Context, image images.Image, fieldpaths ...string) (images.Image, error) {
	if err := i.s.handOverFor(ctx); err != nil {
		return images.Image{}, err
	}
	return i.Store.Update(ctx, image, fieldpaths...)
}
