package layer

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/event"
)

// TestReconcile leaves behind what a killed process would, and expects the next
// store of the same root to keep what is finished or persistent, only.
func TestReconcile(t *testing.T) {
	for _, backend := range []string{"overlayfs", "host"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			st := openStore(t, backend, root)
			defer st.Close()
			ctx := lease(t, context.Background(), st)
			killed, err := New(ctx, st, Config{Root: filepath.Join(root, "layers")})
			if err != nil {
				t.Fatal(err)
			}
			base := build(t, ctx, killed, nil, func(dir string) { write(t, dir+"/a", "1") })
			top := build(t, ctx, killed, base, func(dir string) { write(t, dir+"/b", "1") })
			if _, _, err := killed.Mount(ctx, top); err != nil {
				t.Fatal(err)
			}
			making, err := st.Leases.Create(ctx, leases.WithRandomID(), leases.WithLabel(LabelStore, killed.ID()))
			if err != nil {
				t.Fatal(err)
			}
			work, err := killed.NewWorkspace(ctx, top)
			if err != nil {
				t.Fatal(err)
			}
			kept, err := killed.OpenWorkspace(ctx, "cache", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range []*Workspace{work, kept} {
				dir, err := w.Dir(ctx)
				if err != nil {
					t.Fatal(err)
				}
				write(t, dir+"/c", "1")
			}

			s, err := New(ctx, st, Config{Root: filepath.Join(root, "layers")})
			if err != nil {
				t.Fatal(err)
			}
			if left := mountsBelow(t, root+"/layers"); len(left) > 0 {
				t.Errorf("still mounted: %v", left)
			}
			if left, err := os.ReadDir(root + "/layers/mounts"); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
			if _, err := st.Leases.ListResources(ctx, making); !errdefs.IsNotFound(err) {
				t.Errorf("the lease for a blob that was being made: %v", err)
			}
			got := snapshotNames(t, ctx, s)
			if len(got) != 3 || !got[base.Name] || !got[top.Name] || !got[kept.tree.key] {
				t.Errorf("snapshots %v", got)
			}
			again, err := s.OpenWorkspace(ctx, "cache", nil)
			if err != nil {
				t.Fatal(err)
			}
			dir, err := again.Dir(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if read(t, dir+"/c") != "1" {
				t.Error("a persistent tree lost a file")
			}
			if err := s.Close(ctx); err != nil {
				t.Fatal(err)
			}
			if left := mountsBelow(t, root+"/layers"); len(left) > 0 {
				t.Errorf("closed, but still mounted: %v", left)
			}
		})
	}
}

// TestStrangers expects a store to leave alone what another one has in the same
// namespace.
func TestStrangers(t *testing.T) {
	ctx, s := open(t)
	w, err := s.NewWorkspace(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(ctx, s.store, Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.store.GC(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(ctx, Meta{}); err != nil {
		t.Error(err)
	}
}

// TestCloseInUse expects Close to unmount what is in use, to end what runs in
// the background, and to refuse what comes after.
func TestCloseInUse(t *testing.T) {
	root := t.TempDir()
	st := openStore(t, "overlayfs", root)
	defer st.Close()
	ctx := lease(t, context.Background(), st)
	s, err := New(ctx, st, Config{Root: root + "/layers"})
	if err != nil {
		t.Fatal(err)
	}
	l := build(t, ctx, s, nil, func(dir string) { write(t, dir+"/a", "1") })
	dir, release, err := s.Mount(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	busy, err := os.Open(dir + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	w, err := s.NewWorkspace(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Dir(ctx); err != nil {
		t.Fatal(err)
	}
	s.Prepare(l)
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if left := mountsBelow(t, root+"/layers"); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}
	release()
	if err := w.Discard(ctx); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Mount(ctx, l); err == nil {
		t.Error("a closed store mounts")
	}
	s.Prepare(l)
	if _, err := s.Blobs(ctx, l, Compression{Type: Zstd}, event.Progress{}); err == nil {
		t.Error("a closed store makes blobs")
	}
}

// TestLinger expects a mount to outlive its last use for a while, but not for
// ever.
func TestLinger(t *testing.T) {
	root := t.TempDir()
	st := openStore(t, "overlayfs", root)
	defer st.Close()
	ctx := lease(t, context.Background(), st)
	s, err := New(ctx, st, Config{Root: root + "/layers", Linger: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	l := build(t, ctx, s, nil, func(dir string) { write(t, dir+"/a", "1") })
	first, release, err := s.Mount(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	release()
	second, release, err := s.Mount(ctx, l)
	if err != nil || first != second {
		t.Errorf("mounted anew: %s, %s, %v", first, second, err)
	}
	time.Sleep(100 * time.Millisecond)
	if read(t, second+"/a") != "1" {
		t.Error("unmounted while in use")
	}
	release()
	for deadline := time.Now().Add(10 * time.Second); len(mountsBelow(t, root+"/layers")) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("still mounted")
		}
	}
}
