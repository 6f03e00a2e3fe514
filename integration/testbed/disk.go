package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Disk makes the folder dir and mounts a filesystem of its own on it, with size
// bytes for data and metadata, until the test ends. The parent of dir is a Dir.
func Disk(t testing.TB, dir string, size int64) {
	t.Helper()
	image := filepath.Join(filepath.Dir(dir), filepath.Base(dir)+".disk")
	for _, step := range []func() error{
		func() error { return os.Mkdir(dir, 0o700) },
		func() error { return os.WriteFile(image, nil, 0o600) },
		func() error { return os.Truncate(image, size) },
		func() error { return run("mkfs.ext4", "-q", "-m", "0", image) },
		func() error { return run("mount", "-o", "loop", image, dir) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := run("umount", dir); err != nil {
			t.Error(err)
		}
	})
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
