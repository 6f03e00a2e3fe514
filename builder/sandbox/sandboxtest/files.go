package sandboxtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
)

var files = map[string]test{
	"bind mounts":              testBindMounts,
	"tmpfs":                    testTmpfs,
	"mount replaces usual one": testReplaceUsual,
	"last mount wins":          testLastMountWins,
	"mount below mount":        testMountBelowMount,
	"mount below shared mount": testMountBelowShared,
	"socket":                   testSocket,
	"readonly root":            testReadonlyRoot,
	"no stub stays":            testNoStubStays,
	"stub parents":             testStubParents,
	"used stub stays":          testUsedStub,
	"times put back":           testTimes,
	"swapped parent":           testSwappedParent,
	"stub through links":       testStubThroughLinks,
	"links out of the root":    testLinksOut,
	"working directory":        testCwd,
	"hostile cwd":              testHostileCwd,
}

func bind(source, target string, options ...string) sandbox.Mount {
	return sandbox.Mount{Type: "bind", Source: source, Target: target, Options: options}
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// listing is every path in dir, sorted.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if rel := strings.TrimPrefix(p, dir); rel != "" {
			paths = append(paths, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// added is what is in root now and was not in before, without the mount points of
// /proc, /dev and /sys, which a runner may leave.
func added(t *testing.T, root string, before []string) []string {
	t.Helper()
	usual := []string{"/proc", "/dev", "/sys"}
	return slices.DeleteFunc(listing(t, root), func(p string) bool {
		return slices.Contains(before, p) || slices.Contains(usual, p)
	})
}

func testBindMounts(t *testing.T, r sandbox.Runner) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "file"), "content")
	s := newSpec(t, "cat /data/file /one; echo new > /data/made; echo no > /ro/made || echo refused")
	s.Mounts = []sandbox.Mount{bind(dir, "/data"), bind(file, "/one", "rbind", "ro"), bind(dir, "/ro", "rbind", "ro")}
	if got := mustOutput(t, r, s); !strings.HasPrefix(got, "contentcontentrefused\n") {
		t.Errorf("output %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(got) != "new\n" {
		t.Errorf("written file: %q, %v", got, err)
	}
}

func testTmpfs(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "dd if=/dev/zero of=/t/big bs=1024 count=2048 2>/dev/null || echo full; stat -f -c %T /t; stat -c %a /t")
	s.Mounts = []sandbox.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/t", Options: []string{"size=1m", "mode=0700"}}}
	if got := mustOutput(t, r, s); got != "full\ntmpfs\n700" {
		t.Errorf("output %q", got)
	}
}

func testReplaceUsual(t *testing.T, r sandbox.Runner) {
	hosts := write(t, filepath.Join(t.TempDir(), "hosts"), "mine")
	s := newSpec(t, "cat /etc/hosts; grep -c ' /etc/hosts ' /proc/mounts; grep ' /dev/shm ' /proc/mounts")
	s.Mounts = []sandbox.Mount{
		bind(hosts, "/etc/hosts"),
		{Type: "tmpfs", Source: "tmpfs", Target: "/dev/shm/", Options: []string{"size=123k"}},
	}
	got := mustOutput(t, r, s)
	if !strings.HasPrefix(got, "mine1\n") || strings.Count(got, "/dev/shm") != 1 || !strings.Contains(got, "size=12") {
		t.Errorf("output %q", got)
	}
}

func testLastMountWins(t *testing.T, r sandbox.Runner) {
	dir := t.TempDir()
	a, b := write(t, dir+"/a", "a"), write(t, dir+"/b", "b")
	s := newSpec(t, "cat /f; grep -c ' /f ' /proc/mounts")
	s.Mounts = []sandbox.Mount{bind(a, "/f"), bind(b, "/x/../f")}
	if got := mustOutput(t, r, s); got != "b1" {
		t.Errorf("output %q", got)
	}
}

func testMountBelowMount(t *testing.T, r sandbox.Runner) {
	outer, inner := t.TempDir(), t.TempDir()
	write(t, inner+"/f", "deep")
	s := newSpec(t, "cat /a/b/f")
	before := listing(t, s.Root)
	s.Mounts = []sandbox.Mount{bind(outer, "/a"), bind(inner, "/a/b")}
	if got := mustOutput(t, r, s); got != "deep" {
		t.Errorf("output %q", got)
	}
	if left := added(t, s.Root, before); len(left) != 0 {
		t.Errorf("left in root: %q", left)
	}
}

// testMountBelowShared has processes make the same mount point at the same time, in a
// directory that they share.
func testMountBelowShared(t *testing.T, r sandbox.Runner) {
	bin := NewRoot(t) + "/bin"
	for range 3 {
		outer, inner := t.TempDir(), t.TempDir()
		var wg sync.WaitGroup
		for range 6 {
			s := newSpecOn(t.TempDir(), "true")
			s.Mounts = []sandbox.Mount{bind(bin, "/bin"), bind(outer, "/foo/bar")}
			for i := range 40 {
				s.Mounts = append(s.Mounts, bind(inner, fmt.Sprintf("/foo/bar/%d/deep", i)))
			}
			wg.Go(func() {
				if out, err := output(t, r, s); err != nil {
					t.Errorf("error %v, output %q", err, out)
				}
			})
		}
		wg.Wait()
	}
}

func testSocket(t *testing.T, r sandbox.Runner) {
	dir := t.TempDir()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: dir + "/s"}); err != nil {
		t.Fatal(err)
	}
	s := newSpec(t, "test -S /run/agent.sock && echo socket")
	before := listing(t, s.Root)
	s.Mounts = []sandbox.Mount{bind(dir+"/s", "/run/agent.sock")}
	s.RemoveStubsRecursive = true
	if got := mustOutput(t, r, s); got != "socket" {
		t.Errorf("output %q", got)
	}
	if left := added(t, s.Root, before); len(left) != 0 {
		t.Errorf("left in root: %q", left)
	}
}

func testReadonlyRoot(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "echo x > /f || echo refused; echo y > /t/f && echo written")
	s.ReadonlyRoot = true
	s.Mounts = []sandbox.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/t"}}
	if got := mustOutput(t, r, s); !strings.HasPrefix(got, "refused\nwritten\n") {
		t.Errorf("output %q", got)
	}
}

func testNoStubStays(t *testing.T, r sandbox.Runner) {
	for _, script := range []string{"true", "exit 1", "no-such-command"} {
		s := newSpec(t, script)
		if script == "no-such-command" {
			s.Args = []string{"/no-such-command"}
		}
		before := listing(t, s.Root)
		s.Mounts = []sandbox.Mount{
			bind(t.TempDir(), "/dir"),
			{Type: "tmpfs", Source: "tmpfs", Target: "/tmp"},
			bind(write(t, t.TempDir()+"/f", "x"), "/etc/secret"),
		}
		output(t, r, s) //nolint:errcheck // it fails on purpose
		if left := added(t, s.Root, before); len(left) != 0 {
			t.Errorf("%s: left in root: %q", script, left)
		}
	}
}

func testStubParents(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "true")
	before := listing(t, s.Root)
	s.Mounts = []sandbox.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/a/b/c"}}
	mustOutput(t, r, s)
	if left := added(t, s.Root, before); !slices.Equal(left, []string{"/a", "/a/b"}) {
		t.Errorf("left in root: %q", left)
	}
	s = newSpec(t, "touch /a/used")
	before = listing(t, s.Root)
	s.Mounts = []sandbox.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/a/b/c"}, {Type: "tmpfs", Source: "tmpfs", Target: "/d/e"}}
	s.RemoveStubsRecursive = true
	mustOutput(t, r, s)
	if left := added(t, s.Root, before); !slices.Equal(left, []string{"/a", "/a/used"}) {
		t.Errorf("left in root: %q", left)
	}
}

// testUsedStub writes to a stub behind the mount, through a second mount of the root.
func testUsedStub(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "echo kept > /back/etc/hosts; echo kept > /back/d/file")
	s.Mounts = []sandbox.Mount{bind(s.Root, "/back", "bind"), {Type: "tmpfs", Source: "tmpfs", Target: "/d"}}
	mustOutput(t, r, s)
	for _, name := range []string{"/etc/hosts", "/d/file"} {
		if got, err := os.ReadFile(s.Root + name); err != nil || string(got) != "kept\n" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func testTimes(t *testing.T, r sandbox.Runner) {
	old := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	for script, changed := range map[string]bool{"true": false, "touch /etc/x": true} {
		s := newSpec(t, script)
		etc := s.Root + "/etc"
		if err := os.Chtimes(etc, old, old); err != nil {
			t.Fatal(err)
		}
		mustOutput(t, r, s)
		fi, err := os.Stat(etc)
		if err != nil || !fi.ModTime().Equal(old) != changed {
			t.Errorf("%s: modification time %v, error %v", script, fi.ModTime(), err)
		}
	}
}

// testSwappedParent puts a link to a directory of the host in the place of a mount
// point's parent. The host's empty file by the mount point's name must stay.
func testSwappedParent(t *testing.T, r sandbox.Runner) {
	host := t.TempDir()
	write(t, host+"/hosts", "")
	write(t, host+"/resolv.conf", "")
	if err := os.Mkdir(host+"/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	s := newSpec(t, "cd /back && mv etc moved && ln -s "+host+" etc && mv p q && ln -s "+host+" p")
	s.Mounts = []sandbox.Mount{bind(s.Root, "/back", "bind"), {Type: "tmpfs", Source: "tmpfs", Target: "/p/dir"}}
	mustOutput(t, r, s)
	if got := listing(t, host); !slices.Equal(got, []string{"/dir", "/hosts", "/resolv.conf"}) {
		t.Errorf("the host's directory has %q", got)
	}
	for _, moved := range []string{"/moved", "/q"} {
		if got := listing(t, s.Root+moved); len(got) != 0 {
			t.Errorf("stubs left in %s: %q", moved, got)
		}
	}
}

func testStubThroughLinks(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "cat /link/f; cat /etc/resolv.conf >/dev/null")
	err := errors.Join(os.Symlink("/real", s.Root+"/link"), os.Mkdir(s.Root+"/real", 0o755),
		os.Symlink("/run/resolve/stub.conf", s.Root+"/etc/resolv.conf"))
	if err != nil {
		t.Fatal(err)
	}
	before := listing(t, s.Root)
	s.Mounts = []sandbox.Mount{bind(write(t, t.TempDir()+"/f", "through"), "/link/f")}
	s.RemoveStubsRecursive = true
	if got := mustOutput(t, r, s); got != "through" {
		t.Errorf("output %q", got)
	}
	if left := added(t, s.Root, before); len(left) != 0 {
		t.Errorf("left in root: %q", left)
	}
}

// testLinksOut has links to the host in the root: a process would see its own root
// behind them.
func testLinksOut(t *testing.T, r sandbox.Runner) {
	host := t.TempDir()
	s := newSpec(t, "pwd; id -u")
	err := errors.Join(os.Symlink(host, s.Root+"/out"), os.Symlink("../../../../../.."+host, s.Root+"/up"))
	if err != nil {
		t.Fatal(err)
	}
	s.Cwd = "/out/work"
	s.Mounts = []sandbox.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/up/mnt"}}
	if got := mustOutput(t, r, s); got != host+"/work\n0" {
		t.Errorf("output %q", got)
	}
	if got := listing(t, host); len(got) != 0 {
		t.Errorf("made on the host: %q", got)
	}
}

func testCwd(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "pwd; stat -c '%u:%g %a' . ..")
	s.Cwd = "/room//deep/"
	s.User = "7:8"
	if got := mustOutput(t, r, s); got != "/room/deep\n7:8 755\n7:8 755" {
		t.Errorf("output %q", got)
	}
	s = newSpec(t, "pwd; stat -c '%u:%g %a' .")
	s.Cwd, s.User = "/", "7:8"
	if got := mustOutput(t, r, s); got != "/\n0:0 755" {
		t.Errorf("output %q", got)
	}
}

// testHostileCwd names file descriptors, of which the runtime may have some that lead
// to the host.
func testHostileCwd(t *testing.T, r sandbox.Runner) {
	for _, cwd := range []string{"/proc/self/fd/3", "/proc/self/fd/7", "/proc/self/fd/8/../../..", "/proc/1/root"} {
		s := newSpec(t, "cat etc/debian_version etc/os-release 2>/dev/null; ls")
		s.Cwd = cwd
		out, err := output(t, r, s)
		if err == nil && strings.Contains(out, "home") {
			t.Errorf("%s: shows the host: %q", cwd, out)
		}
	}
	s := newSpec(t, "true")
	s.Cwd = "relative"
	if _, err := output(t, r, s); err == nil {
		t.Error("a relative working directory was accepted")
	}
}
