package layer

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestCommitAndMount(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			ctx, s := openOn(t, backend)
			base := build(t, ctx, s, nil, func(dir string) { write(t, dir+"/a", "1") })
			top := build(t, ctx, s, base, func(dir string) {
				write(t, dir+"/b", "2")
				if err := os.Remove(dir + "/a"); err != nil {
					t.Fatal(err)
				}
			})
			for l, want := range map[*Layer][]string{nil: nil, base: {"a"}, top: {"b"}} {
				dir, release, err := s.Mount(ctx, l)
				if err != nil {
					t.Fatal(err)
				}
				entries, err := os.ReadDir(dir)
				if err != nil || len(entries) != len(want) || len(want) == 1 && entries[0].Name() != want[0] {
					t.Errorf("layer has %v, want %v (%v)", entries, want, err)
				}
				if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err == nil {
					t.Error("a mounted layer can be written to")
				}
				release()
				release()
			}
		})
	}
}

func TestOpen(t *testing.T) {
	ctx, s := open(t)
	base := build(t, ctx, s, nil, func(dir string) { write(t, dir+"/a", "1") })
	top := build(t, ctx, s, base, func(dir string) { write(t, dir+"/b", "1") })
	l, err := s.Open(ctx, top.Name)
	if err != nil {
		t.Fatal(err)
	}
	if l.Name != top.Name || !l.Created.Equal(top.Created) || l.Description != "test" || l.Lease != top.Lease || l.Lease == "" || l.Parent.Name != base.Name || l.Parent.Parent != nil {
		t.Errorf("opened %+v on %+v, want %+v", l, l.Parent, top)
	}
	if _, err := s.Open(ctx, "nothing"); !errdefs.IsNotFound(err) {
		t.Errorf("open what doesn't exist: %v", err)
	}
	if size, err := s.Size(ctx, top); err != nil || size < 1 {
		t.Errorf("size %d, %v", size, err)
	}
}

func TestDiscard(t *testing.T) {
	ctx, s := open(t)
	w, err := s.NewWorkspace(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := w.Dir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/a", "1")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for range 2 {
		if err := w.Discard(ended); err != nil {
			t.Fatal(err)
		}
	}
	if left := snapshotNames(t, ctx, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := w.Dir(ctx); err == nil {
		t.Error("a discarded workspace can be mounted")
	}
}

func TestMountTwice(t *testing.T) {
	ctx, s := open(t)
	base := build(t, ctx, s, nil, func(dir string) { write(t, dir+"/a", "1") })
	w, err := s.NewWorkspace(ctx, base)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "y"} {
		dir, err := w.Dir(ctx)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir+"/"+name, name)
		if err := w.Unmount(); err != nil {
			t.Fatal(err)
		}
	}
	l, err := w.Commit(ctx, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	dir, release, err := s.Mount(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, name := range []string{"x", "y"} {
		if read(t, dir+"/"+name) != name {
			t.Error("lost", name)
		}
	}
}

func TestPersistent(t *testing.T) {
	ctx, s := open(t)
	var dirs [2]string
	var all [2]*Workspace
	for i := range all {
		w, err := s.OpenWorkspace(ctx, "../go cache", nil)
		if err != nil {
			t.Fatal(err)
		}
		if dirs[i], err = w.Dir(ctx); err != nil {
			t.Fatal(err)
		}
		all[i] = w
	}
	write(t, dirs[0]+"/a", "1")
	if read(t, dirs[1]+"/a") != "1" {
		t.Error("two workspaces of one name differ")
	}
	if err := all[0].Unmount(); err != nil {
		t.Fatal(err)
	}
	if read(t, dirs[1]+"/a") != "1" {
		t.Error("unmounted while in use")
	}
	if err := all[0].Discard(ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("discard what is in use: %v", err)
	}
	if err := all[1].Unmount(); err != nil {
		t.Fatal(err)
	}
	base := build(t, ctx, s, nil, func(string) {})
	if _, err := s.OpenWorkspace(ctx, "../go cache", base); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("open on another parent: %v", err)
	}
	if err := all[0].Discard(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := all[1].Dir(ctx); err == nil {
		t.Error("a removed tree can be mounted")
	}
	w, err := s.OpenWorkspace(ctx, "../go cache", base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(ctx, Meta{}); err == nil {
		t.Error("a persistent workspace can be committed")
	}
	if err := s.RemoveWorkspace(ctx, "../go cache"); err != nil {
		t.Error(err)
	}
	if err := s.RemoveWorkspace(ctx, "../go cache"); !errdefs.IsNotFound(err) {
		t.Errorf("remove twice: %v", err)
	}
}

// TestMapped expects what was written through a mapping of a file to be in the
// layer, though the tree is unmounted at once.
func TestMapped(t *testing.T) {
	const size = 16 << 20
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			ctx, s := openOn(t, backend)
			base := build(t, ctx, s, nil, func(dir string) { write(t, dir+"/a", "1") })
			top := build(t, ctx, s, base, func(dir string) {
				f, err := os.Create(dir + "/mapped")
				if err != nil {
					t.Fatal(err)
				}
				if err := f.Truncate(size); err != nil {
					t.Fatal(err)
				}
				data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
				for i := range data {
					data[i] = 0xab
				}
				if err := unix.Munmap(data); err != nil {
					t.Fatal(err)
				}
			})
			dir, release, err := s.Mount(ctx, top)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			if n := strings.Count(read(t, dir+"/mapped"), "\xab"); n != size {
				t.Errorf("%d of %d bytes were written", n, size)
			}
		})
	}
}
