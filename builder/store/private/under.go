package private

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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

// comparer is containerd's, which writes blobs.
type comparer struct {
	diff.Comparer
	s *space
}

// Compare implements [diff.Comparer].
func (c comparer) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispec.Descriptor, error) {
	if err := c.s.handOverFor(ctx); err != nil {
		return ocispec.Descriptor{}, err
	}
	return c.Comparer.Compare(ctx, lower, upper, opts...)
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
