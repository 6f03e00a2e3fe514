package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// specLocal is a Local that makes specs only.
func specLocal(t *testing.T, cfg Config) *Local {
	t.Helper()
	cfg.Binary, cfg.StateDir = "/bin/true", t.TempDir()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func checkedRun(t *testing.T, s Spec) *run {
	t.Helper()
	s.ID, s.Root, s.Args = "id", t.TempDir(), []string{"x"}
	s, err := s.checked()
	if err != nil {
		t.Fatal(err)
	}
	return &run{Spec: s, bundle: t.TempDir()}
}

func TestCgroupPath(t *testing.T) {
	for _, c := range []struct{ config, spec, want string }{
		{"", "", "/kiln/id"},
		{"builds", "", "/builds/kiln/id"},
		{"builds", "/mine/", "/mine/kiln/id"},
		{"", "system.slice", "/system.slice/kiln/id"},
		{"", "system.slice:kiln:", "/system.slice/kiln-id.scope"},
		{"a-b.slice:p:", "", "/a.slice/a-b.slice/p-id.scope"},
	} {
		r := specLocal(t, Config{CgroupParent: c.config})
		cgroup := r.cgroupPath(Spec{ID: "id", CgroupParent: c.spec})
		if got := cgroupDir(cgroup); got != c.want || !ofRun(cgroup, "id") || ofRun(cgroup, "d") {
			t.Errorf("%q, %q: %q is in %q, want %q", c.config, c.spec, cgroup, got, c.want)
		}
	}
	for _, parent := range []string{"a/../b", "x.slice:", "x.slice:p:q:", "x.slice:p:q", ".slice:p:", "a--b.slice:p:", "a/b.slice:p:", "a.slice:b/c:", "x:a.slice:"} {
		err := checkCgroupParent(parent)
		if sc, ok := parseScope(parent); err == nil && (!ok || sc.name == "") {
			t.Errorf("%q was accepted", parent)
		}
	}
}

// TestBaselineIsNotChanged makes specs of every kind and compares what they all refer to.
func TestBaselineIsNotChanged(t *testing.T) {
	snapshot := func(c *Local) string {
		text, err := json.Marshal([]any{c.base.caps, c.base.allCaps, c.base.masked, c.base.readonly, c.base.mounts, c.base.devices, c.base.seccomp})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, cfg := range []Config{{}, {Rootless: true}, {HostPID: true}, {Rootless: true, HostPID: true}} {
		c := specLocal(t, cfg)
		before := snapshot(c)
		for _, security := range []Security{Sandboxed, Insecure} {
			c.ociSpec(checkedRun(t, Spec{Security: security, Mounts: []Mount{{Type: "tmpfs", Target: "/dev/shm"}, {Type: "bind", Source: "/proc", Target: "/sys"}}}))
		}
		if after := snapshot(c); after != before {
			t.Errorf("%+v: changed from\n%s\nto\n%s", cfg, before, after)
		}
	}
}

func TestRootlessSpec(t *testing.T) {
	c := specLocal(t, Config{Rootless: true})
	// /proc is nosuid,nodev,noexec on most machines; whatever it is has to be repeated.
	want := lockedFlags("/proc")
	s := c.ociSpec(checkedRun(t, Spec{Security: Insecure, Mounts: []Mount{{Type: "bind", Source: "/proc", Target: "/m", Options: []string{"rbind"}}}}))
	if s.Linux.Resources != nil || s.Linux.CgroupsPath != "" || len(s.Linux.Devices) != 0 {
		t.Error("has cgroups or devices")
	}
	for _, m := range s.Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" {
			t.Errorf("mounts %s", m.Destination)
		}
		if m.Destination == "/m" && !slices.Equal(m.Options, append([]string{"rbind"}, want...)) {
			t.Errorf("options %q, want also %q", m.Options, want)
		}
	}
}

func TestLockedFlags(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // the test fails elsewhere if it stays
	got := lockedFlags(dir)
	for _, flag := range []string{"ro", "nosuid", "noexec"} {
		if !slices.Contains(got, flag) {
			t.Errorf("%q lacks %s", got, flag)
		}
	}
	if slices.Contains(got, "nodev") || lockedFlags(dir+"/absent") != nil {
		t.Errorf("flags %q", got)
	}
}

func TestHostPIDSpec(t *testing.T) {
	s := specLocal(t, Config{HostPID: true}).ociSpec(checkedRun(t, Spec{}))
	if slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace }) {
		t.Error("has a PID namespace")
	}
	for _, p := range append(s.Linux.MaskedPaths, s.Linux.ReadonlyPaths...) {
		if strings.HasPrefix(p, "/proc") {
			t.Errorf("masks %s of the host", p)
		}
	}
}

func TestNames(t *testing.T) {
	for value, want := range map[fmt.Stringer]string{
		NetworkDefault: "default", NetworkHost: "host", NetworkNone: "none", Network(7): "Network(7)", Network(-1): "Network(-1)",
		Sandboxed: "sandboxed", Insecure: "insecure", Security(2): "Security(2)",
	} {
		if value.String() != want {
			t.Errorf("got %q, want %q", value, want)
		}
	}
}

// TestUnwritableRoot has a root on a read-only mount that lacks the mount points: the
// runtime's complaint is passed on, and nothing is left.
func TestUnwritableRoot(t *testing.T) {
	runtime, err := exec.LookPath("runc")
	if err != nil {
		if runtime, err = filepath.Abs("../../bin/tools/runc"); err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH) //nolint:errcheck // the test fails elsewhere if it stays
	c, err := New(Config{Binary: runtime, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Run(t.Context(), Spec{ID: fmt.Sprintf("ro-%d", os.Getpid()), Root: root, Args: []string{"/x"}, Cwd: "/work"}, IO{}, nil)
	if err == nil || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("error %v", err)
	}
}
