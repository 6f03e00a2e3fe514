package embedded

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProbesAreDropped: a process that was killed while it tried out overlays has
// left one mounted.
func TestProbesAreDropped(t *testing.T) {
	for _, name := range []string{"snapshots-overlayfs/multiple-lowerdir-check123", "snapshots-fuse-overlayfs/fuseoverlayfs-check123"} {
		root := t.TempDir()
		probe := filepath.Join(root, name)
		merged := filepath.Join(probe, "merged")
		if err := os.MkdirAll(merged, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("probe", merged, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(merged, unix.MNT_DETACH)
		st := openTest(t, Config{Root: root})
		if _, err := os.Stat(probe); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", probe, err)
		}
		keep(t, st, "works")
	}
}
