package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func testTree(t *testing.T) *tree {
	t.Helper()
	tr, err := openTree(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func TestResolve(t *testing.T) {
	tr := testTree(t)
	err := errors.Join(
		os.MkdirAll(tr.dir+"/a/b", 0o755),
		os.Symlink("/a", tr.dir+"/abs"), os.Symlink("../../../../../a/b", tr.dir+"/a/up"),
		os.Symlink("loop", tr.dir+"/loop"), os.Symlink("/not/there", tr.dir+"/dangling"),
	)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"/": "/", "/a/../../..": "/", "/abs/b": "/a/b", "/a/up/c": "/a/b/c", "/dangling/x": "/not/there/x", "/new/x/../y": "/new/y",
	} {
		if got, err := tr.resolve(p); err != nil || got != want {
			t.Errorf("%s: %q, want %q, error %v", p, got, want, err)
		}
	}
	if got, err := tr.resolve("/loop/x"); err == nil {
		t.Errorf("loop: %q", got)
	}
}

func TestOpenRegular(t *testing.T) {
	tr := testTree(t)
	err := errors.Join(
		syscall.Mkfifo(tr.dir+"/fifo", 0o644), os.Mkdir(tr.dir+"/dir", 0o755),
		os.WriteFile(tr.dir+"/file", []byte("text"), 0o644), os.Symlink("/file", tr.dir+"/link"),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/fifo", "/dir", "/absent", "/file/below"} {
		if f, err := tr.openRegular(name); err == nil || strings.Contains(err.Error(), tr.dir) {
			t.Errorf("%s: %v, error %v", name, f, err)
		}
	}
	f, err := tr.openRegular("/link")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 10)
	if n, err := (&bounded{r: f, name: "/link", n: 3}).Read(buf); n != 3 || err != nil {
		t.Errorf("read %d, error %v", n, err)
	}
	if n, err := (&bounded{r: f, name: "/link", n: 0}).Read(buf); n != 0 || err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("read %d, error %v", n, err)
	}
}

// TestStubSharedDirectory makes two stubs in one directory and changes it, or not, in
// between.
func TestStubSharedDirectory(t *testing.T) {
	old := time.Unix(1e9, 5)
	for _, changed := range []bool{false, true} {
		tr := testTree(t)
		dir := filepath.Join(tr.dir, "d")
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chtimes(dir, old, old)); err != nil {
			t.Fatal(err)
		}
		s := newStubs(tr)
		for _, target := range []string{"/d/one", "/d/two", "/d/two/below", "/d/e/f"} {
			if err := s.add(Mount{Target: target, Type: "tmpfs"}, removeParents); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(dir + "/two/below"); err == nil {
			t.Error("made a mount point below a mount")
		}
		if changed {
			time.Sleep(20 * time.Millisecond) // before Linux 6.13 times are those of ticks
			if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.remove(); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(dir)
		if err != nil || fi.ModTime().Equal(old) == changed {
			t.Errorf("changed %v: time %v, error %v", changed, fi.ModTime(), err)
		}
		entries, err := os.ReadDir(dir)
		if want := map[bool]int{true: 1}[changed]; err != nil || len(entries) != want {
			t.Errorf("left %v, error %v", entries, err)
		}
	}
}

// TestStubReplaced puts something else in the place of a stub.
func TestStubReplaced(t *testing.T) {
	tr := testTree(t)
	s := newStubs(tr)
	if err := s.add(Mount{Target: "/d", Type: "tmpfs"}, keepParents); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(tr.dir, "d")
	if err := errors.Join(os.Rename(name, name+"2"), os.Mkdir(name, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := s.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name); err != nil {
		t.Errorf("removed what it did not make: %v", err)
	}
}

func TestStubUnderFile(t *testing.T) {
	tr := testTree(t)
	if err := os.WriteFile(tr.dir+"/etc", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := newStubs(tr)
	err := s.add(Mount{Target: "/etc/hosts", Type: "bind"}, keepParents)
	if err == nil || !strings.Contains(err.Error(), "/etc/hosts: not a directory") || strings.Contains(err.Error(), tr.dir) {
		t.Errorf("error %v", err)
	}
	if err := s.remove(); err != nil {
		t.Error(err)
	}
}
