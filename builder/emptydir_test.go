package builder

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEmptyDir: what a killed process left mounted is unmounted, not emptied.
func TestEmptyDir(t *testing.T) {
	t.Parallel()
	source, dir := t.TempDir(), filepath.Join(t.TempDir(), "run")
	at := filepath.Join(dir, "source-1", "at")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	for range 2 {
		if err := emptyDir(dir); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	if _, err := os.Stat(filepath.Join(source, "f")); err != nil {
		t.Error(err)
	}
}
