// Package testbed gives tests the real parts that kiln works with: kilnd
// itself, containerd, a registry, images, and the clients. All of them run on
// folders and sockets of their own, and a test fails if one of them leaves a
// mount or a process behind.
package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// programs are what tests start. The first two are this module's, see make
// build; the others are built by make tools or come from the distribution.
var programs = []string{
	"kilnd", "kiln",
	"buildctl", "buildx", "containerd", "containerd-shim-runc-v2", "crictl", "ctr", "registry", "runc",
	"busybox", "mkfs.ext4", "setcap", "ssh-agent", "ssh-add", "ssh-keygen",
}

// oldPrograms are below those of make tools.
var oldPrograms = []string{"containerd", "containerd-shim-runc-v2", "ctr"}

// UsePrograms makes the programs of this module's bin folders found by name,
// after those of PATH. It fails if one is missing, or if this is not root. To
// be called once, before any test runs.
func UsePrograms() error {
	if os.Geteuid() != 0 {
		return errors.New("these tests mount and run containers: they need root")
	}
	bin, err := binDir()
	if err != nil {
		return err
	}
	search := os.Getenv("PATH")
	for _, dir := range []string{bin, filepath.Join(bin, "tools"), "/usr/sbin", "/sbin"} {
		search += string(filepath.ListSeparator) + dir
	}
	if err := os.Setenv("PATH", search); err != nil {
		return err
	}
	var missing []error
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, fmt.Errorf("%w; run: make test-debs build tools", err))
		}
	}
	for _, name := range oldPrograms {
		if _, err := os.Stat(filepath.Join(bin, "tools", Containerd17.folder, name)); err != nil {
			missing = append(missing, fmt.Errorf("%w; run: make tools", err))
		}
	}
	return errors.Join(missing...)
}

// binDir is the folder that make builds into.
func binDir() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "bin"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// Dir makes a folder with a path short enough for sockets in it. When the test
// ends the folder is removed, and nothing may be mounted or running below it.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kiln-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Clean(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Clean removes a folder. It is an error if a process has to do with it, or if
// something is mounted below it; the latter is unmounted.
func Clean(dir string) error {
	return errors.Join(noProcesses(dir), unmountAll(dir), os.RemoveAll(dir))
}
