package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/session/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// remote is a place that images come from.
type remote interface {
	// resolve finds what the reference means there. It fails with
	// errdefs.ErrNotFound where it means nothing.
	resolve(ctx context.Context) (ocispec.Descriptor, error)
	// open reads a blob from an offset on. What it gives is not verified.
	open(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
	// acquire waits for the permission for one more transfer.
	acquire(ctx context.Context) (release func(), err error)
	// labels are those of blobs that came from there, besides what they have.
	labels(had map[string]string) map[string]string
}

// registryRemote is a repository of a registry.
type registryRemote struct {
	ref        ref
	registries *registry.Registries
	resolver   remotes.Resolver
}

func (r *registryRemote) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	name := r.ref.Name
	if r.ref.Digest != "" {
		name = r.ref.at(r.ref.Digest)
	}
	_, desc, err := r.resolver.Resolve(ctx, name)
	if err != nil {
		return desc, r.fail(err)
	}
	if r.ref.Digest != "" && desc.Digest != r.ref.Digest {
		return desc, fmt.Errorf("%s: the registry answers with %s: %w", r.ref, desc.Digest, errdefs.ErrFailedPrecondition)
	}
	return desc, nil
}

func (r *registryRemote) open(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	fetcher, err := r.resolver.Fetcher(ctx, r.ref.at(desc.Digest))
	if err != nil {
		return nil, r.fail(err)
	}
	desc.URLs = nil // an image doesn't send us elsewhere
	rc, err := fetcher.Fetch(ctx, desc)
	if err != nil {
		return nil, r.fail(err)
	}
	if offset == 0 {
		return rc, nil
	}
	if s, ok := rc.(io.Seeker); ok {
		_, err = s.Seek(offset, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, rc, offset)
	}
	if err != nil {
		rc.Close()
		return nil, r.fail(err)
	}
	return rc, nil
}

func (r *registryRemote) acquire(ctx context.Context) (func(), error) {
	return r.registries.Acquire(ctx, r.ref.Host)
}

// fail says in one line what a user can do something about.
func (r *registryRemote) fail(err error) error {
	if down, ok := errors.AsType[*registry.UnreachableError](err); ok {
		return fmt.Errorf("%s: %w", r.ref, down)
	}
	return fmt.Errorf("%s: %w", r.ref, err)
}
