package sandboxtest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// applets are the commands of busybox that a root has.
var applets = []string{
	"sh", "true", "false", "cat", "echo", "sleep", "id", "ls", "pwd", "touch", "mkdir", "mv", "ln", "rm", "env",
	"hostname", "stat", "kill", "stty", "ip", "mount", "umount", "mknod", "dd", "chmod", "head", "ps", "tail", "grep", "seq", "wc", "wget",
}

// NewRoot returns a directory with a static busybox in /bin, an empty /etc and
// nothing else.
func NewRoot(tb testing.TB) string {
	tb.Helper()
	root := tb.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		tb.Fatal(err)
	}
	bin := filepath.Join(root, "bin")
	for _, dir := range []string{bin, filepath.Join(root, "etc")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	copyFile(tb, busybox(tb), filepath.Join(bin, "busybox"))
	for _, name := range applets {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			tb.Fatal(err)
		}
	}
	return root
}

func busybox(tb testing.TB) string {
	tb.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		tb.Fatalf("no busybox on the PATH: install a static one (Debian: busybox-static): %v", err)
	}
	return path
}

func copyFile(tb testing.TB, from, to string) {
	tb.Helper()
	in, err := os.Open(from)
	if err != nil {
		tb.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		tb.Fatal(err)
	}
	if err := out.Close(); err != nil {
		tb.Fatal(err)
	}
}

// RuntimeBinary returns the path of runc: from the PATH or from bin/tools of the
// module that the test is in.
func RuntimeBinary(tb testing.TB) string {
	tb.Helper()
	if path, err := exec.LookPath("runc"); err == nil {
		return path
	}
	wd, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for dir := wd; dir != "/"; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, "bin", "tools", "runc")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	tb.Fatal("no runc on the PATH nor in bin/tools: run 'make tools'")
	return ""
}

// InitBinary returns the path of kiln-init, which it builds; where there is no Go, it
// is the one on the PATH.
func InitBinary(tb testing.TB) string {
	tb.Helper()
	program, err := initBinary()
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "kiln-init")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		tb.Fatal(err)
	}
	return path
}

var initBinary = sync.OnceValues(func() (program []byte, err error) {
	if _, err := exec.LookPath("go"); err != nil {
		path, err := exec.LookPath("kiln-init")
		if err != nil {
			return nil, err
		}
		return os.ReadFile(path)
	}
	dir, err := os.MkdirTemp("", "kiln-init-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "kiln-init")
	cmd := exec.Command("go", "build", "-o", path, "github.com/kiln-build/kiln/cmd/kiln-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build kiln-init: %w: %s", err, out)
	}
	return os.ReadFile(path)
})
