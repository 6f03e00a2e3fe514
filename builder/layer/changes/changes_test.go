package changes

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// overlay is a mounted overlay over one base directory.
type overlay struct{ base, upper, merged string }

func mountOverlay(t testing.TB, options string, fill func(base string)) overlay {
	t.Helper()
	dir := t.TempDir()
	o := overlay{base: dir + "/base", upper: dir + "/upper", merged: dir + "/merged"}
	for _, d := range []string{o.base, o.upper, o.merged, dir + "/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fill(o.base)
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s/work,index=off%s", o.base, o.upper, dir, options)
	if err := unix.Mount("overlay", o.merged, "overlay", 0, data); err != nil {
		t.Fatalf("mount an overlay in %s (the tests need root, and a directory for temporary files that isn't on an overlay): %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(o.merged, 0); err != nil {
			t.Error("unmount:", err)
		}
	})
	return o
}

// both returns the changes found in the upper directory and by comparing.
func (o overlay) both(t testing.TB) (upper, compared []byte) {
	t.Helper()
	var a, b bytes.Buffer
	u := Upper{Dir: o.upper, Base: o.base, Xattrs: "trusted.overlay."}
	if err := u.Write(context.Background(), &a); err != nil {
		t.Fatal(err)
	}
	if err := Compare(context.Background(), &b, o.base, o.merged); err != nil {
		t.Fatal(err)
	}
	return a.Bytes(), b.Bytes()
}

// list describes the entries of a tar.
func list(t testing.TB, data []byte) (lines []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(r)
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%c %s %s%s", h.Typeflag, h.Name, h.Linkname, content)))
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func put(path, data string) error { return os.WriteFile(path, []byte(data), 0o644) }

func TestUpper(t *testing.T) {
	for name, c := range map[string]struct {
		fill, change func(dir string) error
		want         []string
	}{
		"nothing": {want: nil},
		"add": {
			change: func(d string) error {
				return errors.Join(os.MkdirAll(d+"/a/b", 0o755), put(d+"/a/b/f", "x"), os.Symlink("../x", d+"/l"))
			},
			want: []string{"5 a/", "5 a/b/", "0 a/b/f x", "2 l ../x"},
		},
		"remove": {
			fill:   func(d string) error { return errors.Join(put(d+"/f", "1"), os.MkdirAll(d+"/d/e", 0o755)) },
			change: func(d string) error { return errors.Join(os.Remove(d+"/f"), os.RemoveAll(d+"/d")) },
			want:   []string{"0 .wh.d", "0 .wh.f"},
		},
		"a directory made anew is written as what it lacks": {
			fill: func(d string) error {
				return errors.Join(os.MkdirAll(d+"/d/e", 0o755), put(d+"/d/f", "1"), put(d+"/d/g", "1"))
			},
			change: func(d string) error {
				return errors.Join(os.RemoveAll(d+"/d"), os.Mkdir(d+"/d", 0o755), put(d+"/d/f", "22"))
			},
			want: []string{"5 d/", "0 d/.wh.e", "0 d/f 22", "0 d/.wh.g"},
		},
		"a file becomes a directory": {
			fill: func(d string) error { return put(d+"/x", "1") },
			change: func(d string) error {
				return errors.Join(os.Remove(d+"/x"), os.Mkdir(d+"/x", 0o755), put(d+"/x/y", "1"))
			},
			want: []string{"5 x/", "0 x/y 1"},
		},
		"a link to a directory becomes a directory": {
			fill: func(d string) error { return os.Symlink("/etc", d+"/x") },
			change: func(d string) error {
				return errors.Join(os.Remove(d+"/x"), os.Mkdir(d+"/x", 0o755), put(d+"/x/passwd", "1"))
			},
			want: []string{"5 x/", "0 x/passwd 1"},
		},
		"hard links": {
			change: func(d string) error {
				return errors.Join(put(d+"/b", "1"), os.Link(d+"/b", d+"/a"), os.Link(d+"/b", d+"/c"))
			},
			want: []string{"0 a 1", "1 b a", "1 c a"},
		},
		"a link to what was there": {
			fill:   func(d string) error { return put(d+"/b", "1") },
			change: func(d string) error { return os.Link(d+"/b", d+"/c") },
			want:   []string{"0 c 1", "1 b c"},
		},
		"opened for writing but not changed": {
			fill: func(d string) error {
				return errors.Join(put(d+"/b", "1"), os.Chtimes(d+"/b", time.Unix(9, 0), time.Unix(9, 0)))
			},
			change: func(d string) error { return os.Chmod(d+"/b", 0o644) },
			want:   nil,
		},
		"devices": {
			change: func(d string) error {
				return errors.Join(unix.Mknod(d+"/fifo", unix.S_IFIFO|0o600, 0), unix.Mknod(d+"/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
			},
			want: []string{"6 fifo", "3 null"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			do := func(f func(string) error, dir string) {
				if f != nil {
					must(t, f(dir))
				}
			}
			o := mountOverlay(t, "", func(base string) { do(c.fill, base) })
			do(c.change, o.merged)
			upper, compared := o.both(t)
			if got := list(t, upper); strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got\n %s\nwant\n %s", strings.Join(got, "\n "), strings.Join(c.want, "\n "))
			}
			if !bytes.Equal(upper, compared) {
				t.Errorf("comparing gives\n %s", strings.Join(list(t, compared), "\n "))
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	o := mountOverlay(t, "", func(string) {})
	name := o.merged + "/" + strings.Repeat("long", 60)
	mtime := time.Unix(1000, 123456789)
	must(t, put(name, "x"), os.Chown(name, 12345678, 7), os.Chmod(name, os.ModeSetuid|0o755), os.Chtimes(name, mtime, mtime))
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	must(t, unix.Setxattr(name, "security.capability", []byte(capability), 0))
	upper, compared := o.both(t)
	if !bytes.Equal(upper, compared) {
		t.Error("comparing gives other bytes")
	}
	h, err := tar.NewReader(bytes.NewReader(upper)).Next()
	must(t, err)
	if h.Name != filepath.Base(name) || h.Mode&0o7777 != 0o4755 || h.Uid != 12345678 || h.Gid != 7 || !h.ModTime.Equal(time.Unix(1000, 0)) {
		t.Errorf("header %+v", h)
	}
	if h.PAXRecords["SCHILY.xattr.security.capability"] != capability {
		t.Errorf("records %q", h.PAXRecords)
	}
}

func TestRedirect(t *testing.T) {
	o := mountOverlay(t, ",redirect_dir=on", func(base string) { must(t, os.MkdirAll(base+"/d/e", 0o755)) })
	must(t, os.Rename(o.merged+"/d", o.merged+"/x"))
	err := Upper{Dir: o.upper, Base: o.base, Xattrs: "trusted.overlay."}.Write(context.Background(), io.Discard)
	if !errors.Is(err, ErrIncomplete) {
		t.Errorf("got %v", err)
	}
	if err := (Upper{Dir: o.upper, Base: o.base, Xattrs: "trusted.overlay."}).Link(context.Background(), t.TempDir()); !errors.Is(err, ErrIncomplete) {
		t.Errorf("link: %v", err)
	}
}

// TestLink expects an overlay on links to have the same changes.
func TestLink(t *testing.T) {
	fill := func(base string) {
		must(t, os.MkdirAll(base+"/d/e", 0o755), put(base+"/d/f", "1"), put(base+"/g", "1"))
	}
	o := mountOverlay(t, "", fill)
	must(t, os.RemoveAll(o.merged+"/d"), os.Mkdir(o.merged+"/d", 0o700), os.Chown(o.merged+"/d", 5, 6), os.Remove(o.merged+"/g"))
	must(t, put(o.merged+"/d/x", "1"), os.Symlink("x", o.merged+"/d/y"), unix.Mknod(o.merged+"/d/p", unix.S_IFIFO|0o600, 0))
	must(t, unix.Setxattr(o.merged+"/d", "user.k", []byte("v"), 0), os.Chtimes(o.merged+"/d", time.Unix(7, 0), time.Unix(7, 0)))
	want, _ := o.both(t)

	l := mountOverlay(t, "", fill)
	must(t, Upper{Dir: o.upper, Base: o.base, Xattrs: "trusted.overlay."}.Link(context.Background(), l.upper))
	got, _ := l.both(t)
	if !bytes.Equal(got, want) {
		t.Errorf("got\n %s\nwant\n %s", strings.Join(list(t, got), "\n "), strings.Join(list(t, want), "\n "))
	}
	var v [8]byte
	if n, err := unix.Getxattr(l.upper+"/d", "user.k", v[:]); err != nil || string(v[:n]) != "v" {
		t.Errorf("attribute %q, %v", v[:n], err)
	}
	if err := (Upper{Dir: o.upper, Xattrs: "trusted.overlay."}).Link(context.Background(), l.upper); !errors.Is(err, os.ErrExist) {
		t.Errorf("into a full directory: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	o := mountOverlay(t, "", func(string) {})
	must(t, put(o.merged+"/a", strings.Repeat("x", 1<<20)))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := (Upper{Dir: o.upper, Xattrs: "trusted.overlay."}).Write(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("upper: %v", err)
	}
	if err := Compare(ctx, io.Discard, "", o.merged); !errors.Is(err, context.Canceled) {
		t.Errorf("compare: %v", err)
	}
}

// TestRandom changes trees at random and expects of the upper directory what
// comparing the trees says.
func TestRandom(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			o := mountOverlay(t, "", func(base string) { scramble(rng, base, 60) })
			scramble(rng, o.merged, 40)
			upper, compared := o.both(t)
			if !bytes.Equal(upper, compared) {
				t.Errorf("upper\n %s\ncompared\n %s", strings.Join(list(t, upper), "\n "), strings.Join(list(t, compared), "\n "))
			}
		})
	}
}

// scramble does n random things below dir; those that can't be done don't
// matter.
func scramble(rng *rand.Rand, dir string, n int) {
	path := func() string {
		p := dir
		for range 1 + rng.IntN(3) {
			p += "/" + string(rune('a'+rng.IntN(4)))
		}
		return p
	}
	for i := range n {
		p := path()
		switch rng.IntN(9) {
		case 0, 1:
			os.MkdirAll(p, 0o755)
		case 2, 3:
			put(p, fmt.Sprint(i))
		case 4:
			os.RemoveAll(p)
		case 5:
			os.RemoveAll(p)
			os.MkdirAll(p, 0o755)
		case 6:
			os.Symlink(path(), p)
		case 7:
			if fi, err := os.Lstat(p); err == nil && fi.Mode().IsRegular() {
				os.Chmod(p, 0o600+os.FileMode(rng.IntN(2)))
			}
		case 8:
			if fi, err := os.Lstat(p); err == nil && fi.Mode().IsRegular() {
				os.Link(p, path())
			}
		}
		if t := time.Unix(int64(i), 0); rng.IntN(2) == 0 {
			if fi, err := os.Lstat(p); err == nil && fi.Mode().Type() != os.ModeSymlink {
				os.Chtimes(p, t, t)
			}
		}
	}
}
