package image

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutRemote is a content store of a client.
type layoutRemote struct {
	name  string
	req   request
	store content.Store
}

// layoutRemote asks the sessions for the one that has the image.
func (s *Source) layoutRemote(ctx context.Context, job schedule.Job, req request) (remote, error) {
	ids := job.Sessions()
	if req.layout.session != "" {
		ids = []string{req.layout.session}
	}
	r := &layoutRemote{name: req.String(), req: req}
	err := s.cfg.Sessions.Any(ctx, ids, func(c *session.Client) (err error) {
		if r.store, err = c.Content("oci:" + req.layout.store); err != nil {
			return err
		}
		_, err = r.store.Info(ctx, req.ref.Digest)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("oci-layout %s: %w", r.name, err)
	}
	return r, nil
}

// resolve looks at the size alone; what it is, it says itself.
func (r *layoutRemote) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	info, err := r.store.Info(ctx, r.req.ref.Digest)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("oci-layout %s: %w", r.name, err)
	}
	return ocispec.Descriptor{Digest: r.req.ref.Digest, Size: info.Size}, nil
}

func (r *layoutRemote) open(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	ra, err := r.store.ReaderAt(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("oci-layout %s: %w", r.name, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(ra, offset, desc.Size-offset), ra}, nil
}

func (r *layoutRemote) acquire(context.Context) (func(), error) { return func() {}, nil }

func (r *layoutRemote) labels(map[string]string) map[string]string { return nil }

// nowhere is the remote of images that must be here already.
type nowhere struct{}

func (nowhere) resolve(context.Context) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errdefs.ErrNotFound
}

func (nowhere) open(_ context.Context, d ocispec.Descriptor, _ int64) (io.ReadCloser, error) {
	return nil, fmt.Errorf("%s is not on this machine: %w", d.Digest, errdefs.ErrNotFound)
}

func (nowhere) acquire(context.Context) (func(), error) { return func() {}, nil }

func (nowhere) labels(map[string]string) map[string]string { return nil }
