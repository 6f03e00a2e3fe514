package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestVacateCgroup vacates a cgroup below the root of the real hierarchy.
func TestVacateCgroup(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) }) //nolint:errcheck // the directory's removal would fail
	dir, err := os.MkdirTemp(root, "vacate-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(filepath.Join(dir, "init")); os.Remove(dir) })
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) //nolint:errcheck // it was killed
	pid := strconv.Itoa(cmd.Process.Pid)
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := VacateCgroup(dir); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"cgroup.procs": "", "init/cgroup.procs": pid} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if err := VacateCgroup(t.TempDir()); err != nil {
		t.Errorf("on cgroup v1: %v", err)
	}
}
