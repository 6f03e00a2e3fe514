package embedded

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// compressed are the media types that stand for compressed layers and nothing
// else, such as encrypted ones.
var compressed = map[string]bool{
	ocispec.MediaTypeImageLayerGzip:        true,
	ocispec.MediaTypeImageLayerZstd:        true,
	images.MediaTypeDockerSchema2LayerGzip: true,
	images.MediaTypeDockerSchema2LayerZstd: true,
}

// applier is containerd's, but decompresses a layer beside the writing of its
// files.
type applier struct{ content content.Provider }

func (a applier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	if !compressed[desc.MediaType] {
		return apply.NewFileSystemApplier(a.content).Apply(ctx, desc, mounts, opts...)
	}
	var cfg diff.ApplyConfig
	for _, o := range opts {
		if err := o(ctx, desc, &cfg); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	blob, err := a.content.ReaderAt(ctx, desc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer blob.Close()
	packed := &countingReader{r: content.NewReader(blob)}
	plain, err := compression.DecompressStream(packed)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer plain.Close()
	ahead := newReadAhead(plain)
	defer ahead.Close()

	report := cfg.Progress
	if report != nil {
		cfg.Progress = func(int64) { report(packed.n.Load()) }
	}
	desc.MediaType = ocispec.MediaTypeImageLayer
	inner := apply.NewFileSystemApplier(stream{ahead})
	return inner.Apply(ctx, desc, mounts, func(_ context.Context, _ ocispec.Descriptor, c *diff.ApplyConfig) error {
		*c = cfg
		return nil
	})
}

type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// stream provides one stream, whatever is asked for. It can only be read from
// the start to the end; containerd asks for Reader, and does just that.
type stream struct{ r io.Reader }

func (s stream) ReaderAt(context.Context, ocispec.Descriptor) (content.ReaderAt, error) {
	return streamReader(s), nil
}

type streamReader struct{ r io.Reader }

func (s streamReader) Reader() io.Reader               { return s.r }
func (streamReader) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (streamReader) Size() int64                       { return -1 }
func (streamReader) Close() error                      { return nil }
