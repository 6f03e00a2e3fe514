package embedded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestContentSuite runs containerd's own tests, through the metadata that is
// always in front.
func TestContentSuite(t *testing.T) {
	testsuite.ContentSuite(t, "kiln", func(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
		st, err := Open(ctx, Config{Root: filepath.Join(root, "store"), Snapshotter: "native"})
		if err != nil {
			return nil, nil, nil, err
		}
		ctx = namespaces.WithNamespace(ctx, "test")
		lease, err := st.Leases.Create(ctx, leases.WithRandomID())
		return leases.WithLease(ctx, lease.ID), st.Content, st.Close, err
	})
}

func TestIngest(t *testing.T) {
	ctx := context.Background()
	root := t.TempDir()
	b, err := openBlobs(root)
	if err != nil {
		t.Fatal(err)
	}
	open := func(opts ...content.WriterOpt) content.Writer {
		t.Helper()
		w, err := b.Writer(ctx, append(opts, content.WithRef("r"))...)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	first := open()
	if _, err := b.Writer(ctx, content.WithRef("r")); !errdefs.IsUnavailable(err) {
		t.Errorf("two writers: %v", err)
	}
	first.Write([]byte("he"))
	first.Close()
	second := open()
	first.Close() // no harm to the second
	if _, err := first.Write([]byte("x")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("write after close: %v", err)
	}
	second.Write([]byte("llo"))
	want := digest.SHA512.FromString("hello")
	if err := second.Commit(ctx, 5, want); err != nil {
		t.Fatal(err)
	}
	if err := second.Commit(ctx, 5, want); err == nil {
		t.Error("committed twice")
	}
	third := open()
	third.Write([]byte("hello"))
	if err := third.Commit(ctx, 0, want); !errdefs.IsAlreadyExists(err) {
		t.Errorf("commit what exists: %v", err)
	}
	if _, err := b.Writer(ctx, content.WithRef("r"), content.WithDescriptor(ocispec.Descriptor{Digest: want})); !errdefs.IsAlreadyExists(err) {
		t.Errorf("write what exists: %v", err)
	}
	if data, err := content.ReadBlob(ctx, b, ocispec.Descriptor{Digest: want}); err != nil || string(data) != "hello" {
		t.Errorf("read %q, %v", data, err)
	}
	aborted := open()
	if err := b.Abort(ctx, "r"); err != nil {
		t.Fatal(err)
	}
	if _, err := aborted.Write([]byte("x")); err == nil {
		t.Error("an aborted ingest can be written")
	}
	open().Write([]byte("left"))
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(b.ingestDir()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestBadIngests(t *testing.T) {
	ctx := context.Background()
	b, err := openBlobs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	for _, o := range []content.WriterOpt{
		content.WithRef(""),
		content.WithDescriptor(ocispec.Descriptor{Digest: "sha256:../../x"}),
	} {
		if _, err := b.Writer(ctx, content.WithRef("r"), o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("opened: %v", err)
		}
	}
	w, err := b.Writer(ctx, content.WithRef("r"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(ctx, 0, digest.Digest("sha512:"+strings.Repeat("/", 128))); !errdefs.IsInvalidArgument(err) {
		t.Errorf("committed: %v", err)
	}
	if err := b.Abort(ctx, "none"); !errdefs.IsNotFound(err) {
		t.Errorf("abort what isn't there: %v", err)
	}
	if _, err := b.Status(ctx, "none"); !errdefs.IsNotFound(err) {
		t.Errorf("status of what isn't there: %v", err)
	}
	if _, err := b.ListStatuses(ctx, "=="); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("a bad filter: %v", err)
	}
}
