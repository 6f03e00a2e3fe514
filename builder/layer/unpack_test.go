package layer

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/event"
)

// testImage puts an image of two layers into the content store.
func testImage(t testing.TB, ctx context.Context, s *Store) Image {
	t.Helper()
	d1, id1 := blob(t, ctx, s.store, file{"etc/", ""}, file{"etc/a", "1"}, file{"etc/b", "2"})
	d2, id2 := blob(t, ctx, s.store, file{"etc/.wh.a", ""}, file{"etc/c", "3"})
	return Image{Layers: []ocispec.Descriptor{d1, d2}, DiffIDs: []digest.Digest{id1, id2}}
}

func TestUnpack(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			ctx, s := openOn(t, backend)
			img := testImage(t, ctx, s)
			l, err := s.Unpack(ctx, img, event.Progress{})
			if err != nil {
				t.Fatal(err)
			}
			if want := identity.ChainID(img.DiffIDs).String(); l.Name != want {
				t.Errorf("named %s, want the chain ID %s", l.Name, want)
			}
			dir, release, err := s.Mount(ctx, l)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			if read(t, dir+"/etc/b")+read(t, dir+"/etc/c") != "23" {
				t.Error("wrong content")
			}
			if _, err := os.Stat(dir + "/etc/a"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("whiteout: %v", err)
			}
		})
	}
}

func TestUnpackShares(t *testing.T) {
	ctx, s := open(t)
	img := testImage(t, ctx, s)
	var fetched atomic.Int64
	img.Fetch = func(context.Context, ocispec.Descriptor) error {
		fetched.Add(1)
		return nil
	}
	var wg sync.WaitGroup
	for range 8 {
		ctx := lease(t, ctx, s.store)
		wg.Go(func() {
			if _, err := s.Unpack(ctx, img, event.Progress{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := fetched.Load(); n > 4 {
		t.Errorf("%d fetches for 2 layers", n)
	}
	if n := len(snapshotNames(t, ctx, s)); n != 2 {
		t.Errorf("%d snapshots for 2 layers", n)
	}
	// Each caller's lease keeps the layers.
	if err := s.store.GC(ctx); err != nil {
		t.Fatal(err)
	}
	before := fetched.Load()
	if _, err := s.Unpack(lease(t, ctx, s.store), img, event.Progress{}); err != nil || fetched.Load() != before {
		t.Errorf("unpacked again, %v", err)
	}
}

func TestUnpackFailures(t *testing.T) {
	ctx, s := open(t)
	good := testImage(t, ctx, s)
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		change func(*Image)
		want   func(error) bool
	}{
		"diff ID of other content": {func(i *Image) { i.DiffIDs[1] = digest.FromString("x") }, errdefs.IsDataLoss},
		"no blob":                  {func(i *Image) { i.Layers[1].Digest = digest.FromString("x") }, errdefs.IsNotFound},
		"too few diff IDs":         {func(i *Image) { i.DiffIDs = i.DiffIDs[:1] }, errdefs.IsInvalidArgument},
		"tree of other layers":     {func(i *Image) { i.Tree = &Layer{} }, errdefs.IsInvalidArgument},
		"no digest":                {func(i *Image) { i.Layers[0].Digest = "" }, errdefs.IsInvalidArgument},
		"fetch fails": {func(i *Image) {
			i.Fetch = func(context.Context, ocispec.Descriptor) error { return boom }
		}, func(err error) bool { return errors.Is(err, boom) }},
	} {
		t.Run(name, func(t *testing.T) {
			img := Image{Layers: append([]ocispec.Descriptor(nil), good.Layers...), DiffIDs: append([]digest.Digest(nil), good.DiffIDs...)}
			c.change(&img)
			if _, err := s.Unpack(lease(t, ctx, s.store), img, event.Progress{}); !c.want(err) {
				t.Errorf("got %v", err)
			}
			for name := range snapshotNames(t, ctx, s) {
				if name != good.DiffIDs[0].String() {
					t.Errorf("left %s", name)
				}
			}
		})
	}
}

func TestUnpackCancelled(t *testing.T) {
	ctx, s := open(t)
	img := testImage(t, ctx, s)
	ctx, cancel := context.WithCancel(ctx)
	img.Fetch = func(ctx context.Context, _ ocispec.Descriptor) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	if _, err := s.Unpack(ctx, img, event.Progress{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := snapshotNames(t, context.WithoutCancel(ctx), s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestUnpackTree expects the layers of an image that was built here to share
// the files of what it was made of.
func TestUnpackTree(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			ctx, s := openOn(t, backend)
			tree := twoLayers(t, ctx, s)
			blobs, err := s.Blobs(ctx, tree, Compression{}, event.Progress{})
			if err != nil {
				t.Fatal(err)
			}
			img := Image{Tree: tree}
			for _, b := range blobs {
				img.Layers, img.DiffIDs = append(img.Layers, b.Desc), append(img.DiffIDs, b.DiffID)
			}
			l, err := s.Unpack(ctx, img, event.Progress{})
			if err != nil {
				t.Fatal(err)
			}
			if want := identity.ChainID(img.DiffIDs).String(); l.Name != want {
				t.Errorf("named %s, want %s", l.Name, want)
			}
			again, err := s.Blobs(ctx, l, Compression{}, event.Progress{})
			if err != nil || len(again) != 2 || again[1].Desc.Digest != blobs[1].Desc.Digest {
				t.Errorf("blobs %v, %v; want %v", again, err, blobs)
			}
			old, release, err := s.Mount(ctx, tree)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			dir, release, err := s.Mount(ctx, l)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			if _, err := os.Stat(dir + "/etc/a"); !errors.Is(err, os.ErrNotExist) || read(t, dir+"/etc/c") != "3" {
				t.Errorf("wrong tree, %v", err)
			}
			links := backend != "native" && backend != "fuse-overlayfs"
			if shared := inode(t, dir+"/etc/c") == inode(t, old+"/etc/c"); shared != links {
				t.Errorf("files are shared: %v", shared)
			}
		})
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}
