package fileop

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopyContent copies sizes around the buffers' in both ways there are.
func TestCopyContent(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 4095, 4096, 256<<10 - 1, 256 << 10, 256<<10 + 1, 3 << 20} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		for _, b := range []*buffer{{}, {readWrite: true}} {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "src"), data, 0o600))
			got := copied(t, b, filepath.Join(dir, "src"), filepath.Join(dir, "dst"))
			if !bytes.Equal(got, data) {
				t.Errorf("%d bytes have become %d others", size, len(got))
			}
		}
	}
}

func copied(t *testing.T, b *buffer, from, to string) []byte {
	t.Helper()
	src, err := os.Open(from)
	must(t, err)
	defer src.Close()
	var st unix.Stat_t
	must(t, unix.Fstat(int(src.Fd()), &st))
	dst, err := os.Create(to)
	must(t, err)
	defer dst.Close()
	must(t, b.copy(t.Context(), dst, src, &st))
	got, err := os.ReadFile(to)
	must(t, err)
	return got
}

func TestCopyHoles(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(f *os.File){
		"in the middle": func(f *os.File) { f.WriteAt([]byte("start"), 0); f.WriteAt([]byte("end"), 8<<20) },
		"at the start":  func(f *os.File) { f.WriteAt([]byte("end"), 8<<20) },
		"at the end":    func(f *os.File) { f.WriteAt([]byte("start"), 0); f.Truncate(8 << 20) },
		"everywhere":    func(f *os.File) { f.Truncate(8 << 20) },
	} {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
		f, err := os.Create(from)
		must(t, err)
		write(f)
		must(t, f.Close())
		want, err := os.ReadFile(from)
		must(t, err)
		if got := copied(t, &buffer{}, from, to); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes have become %d others", name, len(want), len(got))
		}
		var st syscall.Stat_t
		must(t, syscall.Stat(to, &st))
		if st.Blocks*512 > 1<<20 {
			t.Errorf("%s: the hole takes %d bytes", name, st.Blocks*512)
		}
	}
}

func TestCopyXattrs(t *testing.T) {
	t.Parallel()
	src, root := grow(t, "d755 0:0 d\nf644 0:0 d/f content\nl 0:0 d/l -> f")
	for p, name := range map[string]string{
		"d": "user.of-dir", "d/f": "user.of-file", "d/l": "trusted.of-link",
	} {
		must(t, unix.Lsetxattr(filepath.Join(root, p), name, []byte("value"), 0))
	}
	must(t, unix.Lsetxattr(filepath.Join(root, "d/f"), "trusted.overlay.origin", []byte("mine"), 0))
	dst, to := grow(t, "")
	must(t, Copy(t.Context(), src, dst, raw("d", "new"), &Owner{1, 1}))
	b := make([]byte, 16)
	for p, name := range map[string]string{
		"new": "user.of-dir", "new/f": "user.of-file", "new/l": "trusted.of-link",
	} {
		if n, err := unix.Lgetxattr(filepath.Join(to, p), name, b); err != nil || string(b[:n]) != "value" {
			t.Errorf("%s of %s: %q, %v", name, p, b[:max(n, 0)], err)
		}
	}
	if _, err := unix.Lgetxattr(filepath.Join(to, "new/f"), "trusted.overlay.origin", b); err != unix.ENODATA {
		t.Errorf("overlayfs's own attribute was copied: %v", err)
	}
}

// TestCopyXattrsNotFatal copies to a file system without user attributes.
func TestCopyXattrsNotFatal(t *testing.T) {
	t.Parallel()
	src, root := grow(t, "f644 2:3 f content")
	must(t, unix.Lsetxattr(filepath.Join(root, "f"), "user.x", []byte("value"), 0))
	dir := t.TempDir()
	must(t, unix.Mount("none", dir, "ramfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	dst, err := Open(dir)
	must(t, err)
	err = Copy(t.Context(), src, dst, raw("f", "f"), nil)
	dst.Close()
	must(t, err)
	same(t, show(t, dir), "f644 2:3 f @101 content")
}

func TestCopyDevice(t *testing.T) {
	t.Parallel()
	src, root := grow(t, "d755 0:0 d")
	must(t, unix.Mknod(filepath.Join(root, "d/zero"), unix.S_IFCHR|0o640, int(unix.Mkdev(1, 5))))
	dst, to := grow(t, "")
	must(t, Copy(t.Context(), src, dst, raw("d", "d"), &Owner{4, 5}))
	var st syscall.Stat_t
	must(t, syscall.Lstat(filepath.Join(to, "d/zero"), &st))
	if st.Mode != unix.S_IFCHR|0o640 || st.Rdev != unix.Mkdev(1, 5) || st.Uid != 4 || st.Gid != 5 {
		t.Errorf("got %+v", st)
	}
}
