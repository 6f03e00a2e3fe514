package idmap_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kiln-build/kiln/builder/idmap"
	"golang.org/x/sys/unix"
)

func open(t *testing.T, spec string) *idmap.Map {
	t.Helper()
	m, err := idmap.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestRanges(t *testing.T) {
	m := open(t, "0:100000:1000,1000:300000:70000")
	for inside, want := range map[int]int{0: 100000, 999: 100999, 1000: 300000, 70999: 369999} {
		uid, gid, err := m.Host(inside, inside)
		if err != nil || uid != want || gid != want {
			t.Errorf("%d is %d:%d on the host, want %d (%v)", inside, uid, gid, want, err)
		}
		if uid, gid := m.Inside(want, want); uid != inside || gid != inside {
			t.Errorf("the host's %d is %d:%d, want %d", want, uid, gid, inside)
		}
	}
	if _, _, err := m.Host(71000, 0); err == nil || !strings.Contains(err.Error(), "user 71000") {
		t.Errorf("a user that isn't mapped: %v", err)
	}
	if _, _, err := m.Host(0, 71000); err == nil || !strings.Contains(err.Error(), "group 71000") {
		t.Errorf("a group that isn't mapped: %v", err)
	}
	if uid, _ := m.Inside(0, 0); uid != 65534 {
		t.Errorf("the host's root is %d", uid)
	}
}

func TestNobodyElse(t *testing.T) {
	var m *idmap.Map
	if uid, gid, err := m.Host(1, 2); uid != 1 || gid != 2 || err != nil {
		t.Error(uid, gid, err)
	}
	if uid, gid := m.Inside(1, 2); uid != 1 || gid != 2 {
		t.Error(uid, gid)
	}
	failed := errors.New("failed")
	if err := m.Do(func() error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if err := errors.Join(m.Admit("/nowhere"), m.Close()); err != nil {
		t.Error(err)
	}
}

func TestBadSpecs(t *testing.T) {
	for spec, want := range map[string]string{
		"nobody-has-this-name":              "/etc/subuid",
		"0:100000:65536:0":                  "INSIDE:HOST:SIZE",
		"0:100000:many":                     "INSIDE:HOST:SIZE",
		"0:-1:65536":                        "INSIDE:HOST:SIZE",
		"0:100000:1000":                     "only 1000 ids",
		"1:100000:65536":                    "only 0 ids",
		"0:100000:10,20:200000:70000":       "only 10 ids",
		"0:0:65536":                         "the host's id 0",
		"0:4294967290:65536":                "beyond the highest id",
		"0:100000:40000,40000:100000:40000": "make a user namespace",
	} {
		m, err := idmap.Open(spec)
		if err == nil {
			m.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

// TestSubordinateIDs reads this machine's files, with lines of a user added to them.
func TestSubordinateIDs(t *testing.T) {
	if os.Getenv("KILN_TEST_SUBIDS") == "" {
		inPrivateEtc(t, "TestSubordinateIDs")
		return
	}
	for file, text := range map[string]string{
		"/etc/passwd": "steps:x:777:777::/:/bin/false\nfew:x:778:778::/:/bin/false\nnone:x:779:779::/:/bin/false\n",
		"/etc/subuid": "steps:400000:1000\n777:500000:65536\nfew:1000000:100\n",
		"/etc/subgid": "steps:600000:65536\nfew:1000000:100\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"steps", "steps:steps"} {
		m := open(t, name)
		if uid, gid, err := m.Host(1000, 1000); uid != 500000 || gid != 601000 || err != nil {
			t.Errorf("%s: 1000 is %d:%d (%v)", name, uid, gid, err)
		}
	}
	for name, want := range map[string]string{"few": "only 100 ids", "none": `no subuid ranges found for user "none"`, "other": "other"} {
		if _, err := idmap.Open(name); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/etc/subuid") {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestBind: what is made as the namespace's root lies on disk as root's.
func TestBind(t *testing.T) {
	m := open(t, "0:100000:65536")
	dir := t.TempDir()
	source, at := filepath.Join(dir, "source"), filepath.Join(dir, "at")
	for _, d := range []string{source, at, filepath.Join(source, "below")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(source, "theirs"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(source, "theirs"), 33, 34); err != nil {
		t.Fatal(err)
	}
	if err := m.Bind(source, at, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	if uid, gid := ownerOf(t, filepath.Join(at, "theirs")); uid != 100033 || gid != 100034 {
		t.Errorf("33:34 is %d:%d on the host", uid, gid)
	}
	if err := os.Mkdir(filepath.Join(at, "host"), 0o755); !errors.Is(err, unix.EOVERFLOW) {
		t.Errorf("the host's root, which isn't mapped, makes a directory: %v", err)
	}
	if err := m.Do(func() error { return os.Mkdir(filepath.Join(at, "mine"), 0o755) }); err != nil {
		t.Fatal(err)
	}
	if uid, gid := ownerOf(t, filepath.Join(source, "mine")); uid != 0 || gid != 0 {
		t.Errorf("root's directory lies there as %d:%d's", uid, gid)
	}
	if err := os.Mkdir(filepath.Join(source, "again"), 0o755); err != nil {
		t.Errorf("this process isn't what it was: %v", err)
	}
	if err := m.Bind("/proc", at, 0); err == nil || !strings.Contains(err.Error(), "/proc") {
		t.Errorf("a filesystem that can't: %v", err)
	}
}

func TestAdmit(t *testing.T) {
	m := open(t, "0:100000:65536")
	dir := t.TempDir()
	for _, mode := range []os.FileMode{0o700, 0o755} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := m.Admit(dir); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o755 {
		t.Error(fi.Mode(), err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.Admit(dir); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(dir)
	if err != nil || fi.Mode().Perm() != 0o710 {
		t.Error(fi.Mode(), err)
	}
	if _, gid := ownerOf(t, dir); gid != 100000 {
		t.Errorf("it is group %d's", gid)
	}
}

func ownerOf(t *testing.T, name string) (uid, gid uint32) {
	t.Helper()
	fi, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}
