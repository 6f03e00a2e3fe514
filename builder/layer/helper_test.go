package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/embedded"
	"github.com/kiln-build/kiln/builder/store/host"
	"github.com/kiln-build/kiln/builder/store/private"
	"github.com/kiln-build/kiln/builder/store/storetest"
)

// backends are what the tests run on: the snapshotters of an embedded store,
// and a containerd with its own and with kiln's.
var backends = []string{"overlayfs", "fuse-overlayfs", "native", "host", "kiln"}

// open gives a layer store on an embedded store, and a context with a lease.
// At the end nothing may be mounted.
func open(t testing.TB) (context.Context, *Store) {
	t.Helper()
	return openOn(t, "overlayfs")
}

func openOn(t testing.TB, backend string) (context.Context, *Store) {
	t.Helper()
	root := t.TempDir()
	ctx := context.Background()
	st := openStore(t, backend, root)
	s, err := New(ctx, st, Config{Root: filepath.Join(root, "layers")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(ctx); err != nil {
			t.Error("close layer store:", err)
		}
		if err := st.Close(); err != nil {
			t.Error("close store:", err)
		}
		if left := mountsBelow(t, root); len(left) > 0 {
			t.Error("still mounted:", left)
		}
	})
	return lease(t, ctx, st), s
}

func openStore(t testing.TB, backend, root string) (st *store.Store) {
	t.Helper()
	ctx := context.Background()
	var err error
	switch backend {
	case "host":
		st, err = host.Open(ctx, host.Config{Address: storetest.Containerd(t), Namespace: "test"})
	case "kiln":
		address, sn := storetest.ContainerdOnKiln(t)
		st, err = host.Open(ctx, host.Config{Address: address, Namespace: "test", Snapshotter: "kiln"})
		if err == nil {
			st, err = private.Wrap(ctx, st, sn, filepath.Join(root, "private"))
		}
	default:
		st, err = embedded.Open(ctx, embedded.Config{Root: filepath.Join(root, "store"), Snapshotter: backend})
	}
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// lease returns ctx with a new lease of the store.
func lease(t testing.TB, ctx context.Context, st *store.Store) context.Context {
	t.Helper()
	ctx = st.Context(ctx)
	l, err := st.Leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		t.Fatal(err)
	}
	return leases.WithLease(ctx, l.ID)
}

// deleteLease deletes the lease of ctx.
func deleteLease(t testing.TB, ctx context.Context, st *store.Store) {
	t.Helper()
	id, _ := leases.FromContext(ctx)
	if err := st.Leases.Delete(ctx, leases.Lease{ID: id}); err != nil {
		t.Fatal(err)
	}
}

// epoch is a time for files whose layers are compared.
var epoch = time.Unix(1000, 0)

// mountsBelow returns the mount points below the directory.
func mountsBelow(t testing.TB, dir string) (found []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir+"/") {
			found = append(found, f[4])
		}
	}
	return found
}

// build commits a layer on top of parent with what fill makes.
func build(t testing.TB, ctx context.Context, s *Store, parent *Layer, fill func(dir string)) *Layer {
	t.Helper()
	w, err := s.NewWorkspace(ctx, parent)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := w.Dir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fill(dir)
	l, err := w.Commit(ctx, Meta{Description: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func write(t testing.TB, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// file is an entry of a layer's tar; names that end with "/" are directories.
type file struct{ name, data string }

// blob puts a gzipped tar into the content store.
func blob(t testing.TB, ctx context.Context, st *store.Store, files ...file) (ocispec.Descriptor, digest.Digest) {
	t.Helper()
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		tw.Write([]byte(f.data))
	}
	tw.Close()
	zw := gzip.NewWriter(&packed)
	zw.Write(plain.Bytes())
	zw.Close()
	desc := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip,
		Digest:    digest.FromBytes(packed.Bytes()),
		Size:      int64(packed.Len()),
	}
	if err := content.WriteBlob(ctx, st.Content, desc.Digest.String(), &packed, desc); err != nil {
		t.Fatal(err)
	}
	return desc, digest.FromBytes(plain.Bytes())
}

// snapshotNames lists the snapshots of the store.
func snapshotNames(t testing.TB, ctx context.Context, s *Store) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := s.store.Snapshots.Walk(s.store.Context(ctx), func(_ context.Context, info snapshots.Info) error {
		names[info.Name] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
