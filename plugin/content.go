package plugin

import (
	"context"
	"fmt"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/plugin/history"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// contentService lets clients read what the store holds and, where it does not
// have it, what records of builds name.
func contentService(st *store.Store, h *history.History) contentapi.ContentServer {
	return contentserver.New(readOnly{st, h})
}

// readOnly is a content.Store that refuses all changes.
type readOnly struct {
	store   *store.Store
	history *history.History
}

func (r readOnly) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	info, err := r.store.Content.Info(r.store.Context(ctx), d)
	if errdefs.IsNotFound(err) {
		return r.history.Info(ctx, d)
	}
	return info, err
}

func (r readOnly) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := r.store.Content.ReaderAt(r.store.Context(ctx), desc)
	if errdefs.IsNotFound(err) {
		return r.history.ReaderAt(ctx, desc)
	}
	return ra, err
}

func (r readOnly) Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error {
	return r.store.Content.Walk(r.store.Context(ctx), fn, filters...)
}

var errReadOnly = fmt.Errorf("content can only be read here: %w", errdefs.ErrNotImplemented)

func (readOnly) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errReadOnly
}

func (readOnly) Delete(context.Context, digest.Digest) error { return errReadOnly }

func (readOnly) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errReadOnly
}

func (readOnly) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, errReadOnly
}

func (readOnly) Abort(context.Context, string) error { return errReadOnly }

func (readOnly) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errReadOnly
}
