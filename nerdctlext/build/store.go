package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
)

// newStore opens a directory in OCI layout to write to, and makes it if need be. tidy
// is to be called after the last write.
func newStore(dir string) (content.Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return contentlocal.NewStore(dir)
}

// tidy removes what the store needed while it was written to, unless another writer's
// blob is in there.
func tidy(dir string) { os.Remove(filepath.Join(dir, "ingest")) }

// openStore opens a directory in OCI layout to read from; the daemon can change nothing.
func openStore(dir string) (content.Store, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	store, err := contentlocal.NewStore(dir)
	return readOnly{store}, err
}

type readOnly struct{ content.Store }

func denied(what string) error {
	return fmt.Errorf("%s: the client offers this store for reading only: %w", what, errdefs.ErrPermissionDenied)
}

func (readOnly) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, denied("writing")
}

func (readOnly) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, denied("labelling")
}

func (readOnly) Delete(context.Context, digest.Digest) error { return denied("deleting") }

func (readOnly) Abort(context.Context, string) error { return denied("aborting") }
