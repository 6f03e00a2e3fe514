package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/builder/event"
)

// openSmall opens a store on a disk of 16 MB.
func openSmall(t *testing.T) (context.Context, *Store) {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error("unmount the disk:", err)
		}
	})
	st := openStore(t, "overlayfs", disk)
	ctx := context.Background()
	s, err := New(ctx, st, Config{Root: disk + "/layers"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(ctx), st.Close()); err != nil {
			t.Error(err)
		}
	})
	return lease(t, ctx, st), s
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) && strings.Contains(err.Error(), "disk is full")
}

func TestUnpackOnFullDisk(t *testing.T) {
	ctx, s := openSmall(t)
	small, id0 := blob(t, ctx, s.store, file{"a", "1"})
	large, id1 := blob(t, ctx, s.store, file{"b", strings.Repeat("\x00", 20<<20)})
	img := Image{Layers: []ocispec.Descriptor{small, large}, DiffIDs: []digest.Digest{id0, id1}}
	if _, err := s.Unpack(ctx, img, event.Progress{}); !isFull(err) {
		t.Errorf("got %v", err)
	}
	if got := snapshotNames(t, ctx, s); len(got) != 1 || !got[id0.String()] {
		t.Errorf("snapshots %v", got)
	}
	// The space is free again.
	if err := s.store.GC(ctx); err != nil {
		t.Fatal(err)
	}
	build(t, ctx, s, nil, func(dir string) { write(t, dir+"/x", strings.Repeat("x", 10<<20)) })
}

func TestBlobOnFullDisk(t *testing.T) {
	ctx, s := openSmall(t)
	l := build(t, ctx, s, nil, func(dir string) {
		f, err := os.Create(dir + "/x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(f, rand.Reader, 10<<20); err != nil {
			t.Fatal(err)
		}
		f.Close()
	})
	for _, typ := range []Type{Gzip, Zstd, EStargz, Uncompressed} {
		if _, err := s.Blobs(ctx, l, Compression{Type: typ}, event.Progress{}); !isFull(err) {
			t.Errorf("%s: %v", typ, err)
		}
	}
	nothingWritten(t, ctx, s)
	if err := s.store.GC(ctx); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.root, &fs); err != nil || int64(fs.Bavail)*fs.Bsize < 5<<20 {
		t.Errorf("only %d bytes are free again, %v", int64(fs.Bavail)*fs.Bsize, err)
	}
}
