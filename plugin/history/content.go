package history

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Info describes a blob of any record. It fails with errdefs.ErrNotFound if no
// record has it.
func (h *History) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	name, err := h.find(d)
	if err != nil {
		return content.Info{}, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return content.Info{}, notFound(d)
	}
	return content.Info{Digest: d, Size: info.Size(), CreatedAt: info.ModTime(), UpdatedAt: info.ModTime()}, nil
}

// ReaderAt opens a blob of any record. It fails with errdefs.ErrNotFound if no
// record has it.
func (h *History) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	name, err := h.find(desc.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, notFound(desc.Digest)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("build history: %w", err)
	}
	return blob{f, info.Size()}, nil
}

// find returns the file of a blob. There is no index: blobs are read seldom,
// and the folders are few.
func (h *History) find(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("build history: blob %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	entries, err := os.ReadDir(h.cfg.Root)
	if err != nil {
		return "", fmt.Errorf("build history: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(h.cfg.Root, e.Name(), blobName(d))
		if _, err := os.Lstat(name); err == nil {
			return name, nil
		}
	}
	return "", notFound(d)
}

func notFound(d digest.Digest) error {
	return fmt.Errorf("build history has no blob %s: %w", d, errdefs.ErrNotFound)
}

type blob struct {
	*os.File
	size int64
}

func (b blob) Size() int64 { return b.size }
