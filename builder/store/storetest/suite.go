package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/store"
)

// Suite tests what the engine relies on. open opens an empty store that the
// test may fill.
func Suite(t *testing.T, open func(t *testing.T) *store.Store) {
	for name, test := range map[string]func(*testing.T, context.Context, *store.Store){
		"names":                         names,
		"content lives with its lease":  contentLease,
		"snapshots live with a lease":   snapshotLease,
		"a snapshot keeps what it says": snapshotRefs,
		"an image keeps its content":    imageRefs,
		"unpack and compare":            unpackAndCompare,
		"errors":                        errorKinds,
		"concurrent":                    concurrent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := open(t)
			test(t, st.Context(context.Background()), st)
		})
	}
}

func names(t *testing.T, ctx context.Context, st *store.Store) {
	if st.Namespace == "" || st.Snapshotter == "" || st.Snapshotter == "auto" {
		t.Errorf("namespace %q, snapshotter %q", st.Namespace, st.Snapshotter)
	}
	if err := st.Snapshots.Walk(context.Background(), func(context.Context, snapshots.Info) error { return nil }); err == nil {
		t.Error("works without a namespace")
	}
	if err := st.Snapshots.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }); err != nil {
		t.Error(err)
	}
}

// newLease returns ctx with a lease, and what deletes the lease.
func newLease(t *testing.T, ctx context.Context, st *store.Store) (context.Context, func()) {
	t.Helper()
	l, err := st.Leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		t.Fatal(err)
	}
	return leases.WithLease(ctx, l.ID), func() {
		t.Helper()
		if err := st.Leases.Delete(ctx, l); err != nil {
			t.Fatal(err)
		}
	}
}

func put(t *testing.T, ctx context.Context, st *store.Store, data []byte, opts ...content.Opt) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := content.WriteBlob(ctx, st.Content, rand.Text(), bytes.NewReader(data), desc, opts...); err != nil {
		t.Fatal(err)
	}
	return desc
}

func gc(t *testing.T, ctx context.Context, st *store.Store) {
	t.Helper()
	if err := st.GC(ctx); err != nil {
		t.Fatal(err)
	}
}

// expect fails unless the blob is there, or is not, after a collection.
func expect(t *testing.T, ctx context.Context, st *store.Store, blob ocispec.Descriptor, there bool) {
	t.Helper()
	gc(t, ctx, st)
	if _, err := st.Content.Info(ctx, blob.Digest); there && err != nil || !there && !errdefs.IsNotFound(err) {
		t.Errorf("content there: %v, want %v (%v)", err == nil, there, err)
	}
}

func contentLease(t *testing.T, ctx context.Context, st *store.Store) {
	leased, drop := newLease(t, ctx, st)
	blob := put(t, leased, st, []byte("x"))
	expect(t, ctx, st, blob, true)
	drop()
	expect(t, ctx, st, blob, false)
}

func snapshotLease(t *testing.T, ctx context.Context, st *store.Store) {
	leased, drop := newLease(t, ctx, st)
	if _, err := st.Snapshots.Prepare(leased, "active", ""); err != nil {
		t.Fatal(err)
	}
	if err := st.Snapshots.Commit(leased, "done", "active"); err != nil {
		t.Fatal(err)
	}
	other, dropOther := newLease(t, ctx, st)
	if _, err := st.Snapshots.View(other, "view", "done"); err != nil {
		t.Fatal(err)
	}
	drop()
	gc(t, ctx, st)
	if info, err := st.Snapshots.Stat(ctx, "done"); err != nil || info.Kind != snapshots.KindCommitted {
		t.Errorf("a view doesn't keep its parent: %v", err)
	}
	dropOther()
	gc(t, ctx, st)
	for _, name := range []string{"done", "view"} {
		if _, err := st.Snapshots.Stat(ctx, name); !errdefs.IsNotFound(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

func snapshotRefs(t *testing.T, ctx context.Context, st *store.Store) {
	leased, drop := newLease(t, ctx, st)
	blob := put(t, leased, st, []byte("x"))
	if _, err := st.Snapshots.Prepare(leased, "active", ""); err != nil {
		t.Fatal(err)
	}
	if err := st.Snapshots.Commit(leased, "done", "active"); err != nil {
		t.Fatal(err)
	}
	label := "containerd.io/gc.ref.content.test"
	info := snapshots.Info{Name: "done", Labels: map[string]string{label: blob.Digest.String()}}
	if _, err := st.Snapshots.Update(ctx, info, "labels."+label); err != nil {
		t.Fatal(err)
	}
	kept := leases.Resource{ID: "done", Type: "snapshots/" + st.Snapshotter}
	other, dropOther := newLease(t, ctx, st)
	defer dropOther()
	id, _ := leases.FromContext(other)
	if err := st.Leases.AddResource(ctx, leases.Lease{ID: id}, kept); err != nil {
		t.Fatal(err)
	}
	drop()
	expect(t, ctx, st, blob, true)
	info, err := st.Snapshots.Stat(ctx, "done")
	if err != nil || info.Labels[label] != blob.Digest.String() {
		t.Errorf("labels %v, %v", info.Labels, err)
	}
}

func imageRefs(t *testing.T, ctx context.Context, st *store.Store) {
	leased, drop := newLease(t, ctx, st)
	layer := put(t, leased, st, []byte("layer"))
	ref := map[string]string{"containerd.io/gc.ref.content.0": layer.Digest.String()}
	target := put(t, leased, st, []byte("manifest"), content.WithLabels(ref))
	if _, err := st.Images.Create(ctx, images.Image{Name: "example.com/x:1", Target: target}); err != nil {
		t.Fatal(err)
	}
	drop()
	expect(t, ctx, st, layer, true)
	if err := st.Images.Delete(ctx, "example.com/x:1"); err != nil {
		t.Fatal(err)
	}
	expect(t, ctx, st, layer, false)
}

func unpackAndCompare(t *testing.T, ctx context.Context, st *store.Store) {
	ctx, drop := newLease(t, ctx, st)
	defer drop()
	if _, err := st.Snapshots.Prepare(ctx, "base", ""); err != nil {
		t.Fatal(err)
	}
	if err := st.Snapshots.Commit(ctx, "base-done", "base"); err != nil {
		t.Fatal(err)
	}
	mounts, err := st.Snapshots.Prepare(ctx, "work", "base-done")
	if err != nil {
		t.Fatal(err)
	}
	if err := mount.WithTempMount(ctx, mounts, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "file"), []byte("hello"), 0o644)
	}); err != nil {
		t.Fatal(err)
	}
	below, err := st.Snapshots.View(ctx, "below", "base-done")
	if err != nil {
		t.Fatal(err)
	}
	blob, err := walking.NewWalkingDiff(st.Content).Compare(ctx, below, mounts)
	if err != nil {
		t.Fatal(err)
	}
	target, err := st.Snapshots.Prepare(ctx, "target", "base-done")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Applier.Apply(ctx, blob, target); err != nil {
		t.Fatal(err)
	}
	err = mount.WithReadonlyTempMount(ctx, target, func(dir string) error {
		if data, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(data) != "hello" {
			return fmt.Errorf("read %q: %w", data, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func errorKinds(t *testing.T, ctx context.Context, st *store.Store) {
	ctx, drop := newLease(t, ctx, st)
	defer drop()
	if _, err := st.Snapshots.Stat(ctx, "none"); !errdefs.IsNotFound(err) {
		t.Errorf("stat what isn't there: %v", err)
	}
	if _, err := st.Snapshots.Prepare(ctx, "a", "none"); !errdefs.IsNotFound(err) {
		t.Errorf("prepare on what isn't there: %v", err)
	}
	for range 2 {
		_, err := st.Snapshots.Prepare(ctx, "a", "")
		if err != nil && !errdefs.IsAlreadyExists(err) {
			t.Errorf("prepare twice: %v", err)
		}
	}
	if _, err := st.Content.Info(ctx, digest.FromString("x")); !errdefs.IsNotFound(err) {
		t.Errorf("content that isn't there: %v", err)
	}
	if err := st.Leases.Delete(ctx, leases.Lease{ID: "none"}); !errdefs.IsNotFound(err) {
		t.Errorf("lease that isn't there: %v", err)
	}
	bad := ocispec.Descriptor{Digest: digest.FromString("y"), Size: 1}
	if err := content.WriteBlob(ctx, st.Content, "bad", bytes.NewReader([]byte("x")), bad); err == nil {
		t.Error("content with another digest is accepted")
	}
}

func concurrent(t *testing.T, ctx context.Context, st *store.Store) {
	ctx, drop := newLease(t, ctx, st)
	defer drop()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			key := fmt.Sprint("work-", i)
			if _, err := st.Snapshots.Prepare(ctx, key, ""); err != nil {
				t.Error(err)
			}
			if i%5 == 0 {
				if err := st.GC(ctx); err != nil {
					t.Error(err)
				}
			}
			if err := st.Snapshots.Commit(ctx, fmt.Sprint("done-", i), key); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	err := st.Snapshots.Walk(ctx, func(context.Context, snapshots.Info) error { n++; return nil })
	if n != 20 || err != nil {
		t.Errorf("%d snapshots, %v", n, err)
	}
}
