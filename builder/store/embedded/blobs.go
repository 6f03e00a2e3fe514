package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// blobs is containerd's local content store, but for what is being written:
// that is never synced, and doesn't outlive the process.
type blobs struct {
	content.Store // what is committed
	root          string

	mu      sync.Mutex
	ingests map[string]*ingest // by ref
}

func openBlobs(root string) (*blobs, error) {
	st, err := local.NewStore(root)
	if err != nil {
		return nil, fmt.Errorf("embedded store: content: %w", err)
	}
	b := &blobs{Store: st, root: root, ingests: map[string]*ingest{}}
	if err := os.RemoveAll(b.ingestDir()); err != nil {
		return nil, fmt.Errorf("embedded store: content: %w", err)
	}
	for _, dir := range []string{b.ingestDir(), filepath.Join(root, "blobs", string(digest.Canonical))} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("embedded store: content: %w", err)
		}
	}
	return b, nil
}

func (b *blobs) ingestDir() string { return filepath.Join(b.root, "ingest") }

// blobPath is where containerd's local store has its blobs. The digest must be
// valid.
func (b *blobs) blobPath(d digest.Digest) string {
	return filepath.Join(b.root, "blobs", d.Algorithm().String(), d.Encoded())
}

// Writer opens an ingest, or goes on with one that was closed.
func (b *blobs) Writer(_ context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if o.Ref == "" {
		return nil, fmt.Errorf("ref must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	if d := o.Desc.Digest; d != "" {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("expected digest %q: %w", d, errdefs.ErrInvalidArgument)
		}
		if _, err := os.Lstat(b.blobPath(d)); err == nil {
			return nil, fmt.Errorf("content %s: %w", d, errdefs.ErrAlreadyExists)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.ingests[o.Ref]
	if i == nil {
		var err error
		if i, err = b.newIngest(o); err != nil {
			return nil, err
		}
		b.ingests[o.Ref] = i
	}
	w, err := i.open(o.Desc.Size)
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (b *blobs) newIngest(o content.WriterOpts) (*ingest, error) {
	f, err := os.CreateTemp(b.ingestDir(), "")
	if err != nil {
		return nil, err
	}
	algorithm := digest.Canonical
	if o.Desc.Digest != "" {
		algorithm = o.Desc.Digest.Algorithm()
	}
	now := time.Now()
	return &ingest{
		blobs: b, file: f, hash: algorithm.Digester(),
		status: content.Status{Ref: o.Ref, Total: o.Desc.Size, StartedAt: now, UpdatedAt: now},
	}, nil
}

// forget takes an ingest off the list; false if it isn't on it.
func (b *blobs) forget(i *ingest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ingests[i.status.Ref] != i {
		return false
	}
	delete(b.ingests, i.status.Ref)
	return true
}

func (b *blobs) find(ref string) (*ingest, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := b.ingests[ref]; i != nil {
		return i, nil
	}
	return nil, fmt.Errorf("ingest ref %q: %w", ref, errdefs.ErrNotFound)
}

// Abort removes an ingest, even if it is being written to.
func (b *blobs) Abort(_ context.Context, ref string) error {
	i, err := b.find(ref)
	if err != nil {
		return err
	}
	if !b.forget(i) {
		return nil
	}
	return i.remove()
}

// Status returns the state of one ingest.
func (b *blobs) Status(_ context.Context, ref string) (content.Status, error) {
	i, err := b.find(ref)
	if err != nil {
		return content.Status{}, err
	}
	return i.Status()
}

// ListStatuses returns the state of the ingests that match.
func (b *blobs) ListStatuses(_ context.Context, filter ...string) ([]content.Status, error) {
	match, err := filters.ParseAll(filter...)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	all := make([]*ingest, 0, len(b.ingests))
	for _, i := range b.ingests {
		all = append(all, i)
	}
	b.mu.Unlock()
	var found []content.Status
	for _, i := range all {
		if st, _ := i.Status(); match.Match(byRef(st)) {
			found = append(found, st)
		}
	}
	return found, nil
}

// byRef lets filters look at an ingest.
func byRef(st content.Status) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) == 1 && path[0] == "ref" {
			return st.Ref, true
		}
		return "", false
	})
}

// close removes what isn't committed.
func (b *blobs) close() error {
	b.mu.Lock()
	all := b.ingests
	b.ingests = map[string]*ingest{}
	b.mu.Unlock()
	var errs []error
	for _, i := range all {
		errs = append(errs, i.remove())
	}
	return errors.Join(errs...)
}
