package layer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"

	"github.com/kiln-build/kiln/builder/event"
)

// deep is a chain of n layers. Each adds a file, and removes another that an
// earlier one has added; the first is private, so is handed over.
func deep(t *testing.T, ctx context.Context, s *Store, top *Layer, from, n int) *Layer {
	t.Helper()
	for i := from; i < from+n; i++ {
		top = build(t, ctx, s, top, func(dir string) {
			write(t, filepath.Join(dir, fmt.Sprint("file", i)), fmt.Sprint(i))
			if i%3 == 2 {
				if err := os.Remove(filepath.Join(dir, fmt.Sprint("file", i/2))); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	return top
}

// files are the names that deep leaves.
func files(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprint("file", i))
	}
	for i := 2; i < n; i += 3 {
		names = slices.DeleteFunc(names, func(name string) bool { return name == fmt.Sprint("file", i/2) })
	}
	slices.Sort(names)
	return names
}

func checkDeep(t *testing.T, ctx context.Context, s *Store, top *Layer, n int) {
	t.Helper()
	dir, release, err := s.Mount(ctx, top)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	var names []string
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := files(n); err != nil || !slices.Equal(names, want) {
		t.Errorf("%d layers have %v, want %v (%v)", n, names, want, err)
	}
}

// TestDeep: however many layers lie on one another, few directories show them,
// and they stay what they are.
func TestDeep(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			ctx, s := openOn(t, backend)
			s.maxRun = 4
			n := 4*4*4 + 4*4 + 3
			merges := backend != "native" && backend != "fuse-overlayfs"
			if !merges { // each tree is copied, or shown by another program
				n = 10
			}
			top := deep(t, ctx, s, nil, 0, n)
			checkDeep(t, ctx, s, top, n)
			chain := top.Chain()
			if len(chain) != n {
				t.Fatalf("a chain of %d, want %d", len(chain), n)
			}
			if err := s.Settle(); err != nil {
				t.Fatal(err)
			}
			if err := s.store.GC(ctx); err != nil {
				t.Fatal(err)
			}
			opened, err := s.Open(ctx, top.Name)
			if err != nil {
				t.Fatal(err)
			}
			for i, l := range opened.Chain() {
				if l.Name != chain[i].Name {
					t.Fatalf("layer %d is %s, want %s", i, l.Name, chain[i].Name)
				}
			}
			again := deep(t, ctx, s, opened, n, 6)
			checkDeep(t, ctx, s, again, n+6)
			v, release, err := s.views.acquire(ctx, again, nil)
			if err != nil {
				t.Fatal(err)
			}
			if dirs, ok := overlayLayers(v.mounts); merges && (!ok || len(dirs) > 3*4) {
				t.Errorf("%d directories are mounted", len(dirs))
			}
			release()
			blobs, err := s.Blobs(ctx, again, Compression{Type: Uncompressed}, event.Progress{})
			if err != nil {
				t.Fatal(err)
			}
			for i, b := range blobs {
				want := 1
				if i%3 == 2 {
					want = 2
				}
				if got := len(times(t, ctx, s, b)); got != want {
					t.Errorf("blob %d has %d entries, want %d", i, got, want)
				}
			}
		})
	}
}

// TestDeepIsKept: what only the highest layer's record keeps is all that its tree
// and its blobs need; and nothing is left after it.
func TestDeepIsKept(t *testing.T) {
	ctx, s := open(t)
	s.maxRun = 4
	const n = 30
	first := deep(t, ctx, s, nil, 0, n-1)
	other := lease(t, ctx, s.store)
	top := deep(t, other, s, first, n-1, 1)
	drop := func(ctx context.Context) {
		id, _ := leases.FromContext(ctx)
		if err := s.store.Leases.Delete(ctx, leases.Lease{ID: id}); err != nil {
			t.Fatal(err)
		}
		if err := s.Settle(); err != nil {
			t.Fatal(err)
		}
		if err := s.store.GC(ctx); err != nil {
			t.Fatal(err)
		}
	}
	drop(ctx)
	checkDeep(t, other, s, top, n)
	if blobs, err := s.Blobs(other, top, Compression{}, event.Progress{}); err != nil || len(blobs) != n {
		t.Errorf("%d blobs, %v", len(blobs), err)
	}
	drop(other)
	if left := snapshotNames(t, ctx, s); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}
