package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// foreign is a program that says which platform it is for, and who its users are.
const foreign = `package main

import (
	"os"
	"runtime"
)

func main() {
	users, err := os.ReadFile("/proc/self/uid_map")
	println("this is", runtime.GOARCH, string(users), err)
}
`

// foreign makes a folder with that program, for arm64.
func (b *bed) foreign() (dir string) {
	b.Helper()
	dir = b.TempDir()
	for name, text := range map[string]string{"main.go": foreign, "go.mod": "module foreign\n"} {
		b.must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	build := exec.Command("go", "build", "-o", "foreign", ".")
	build.Dir, build.Env = dir, append(os.Environ(), "GOARCH=arm64", "GOOS=linux", "CGO_ENABLED=0", "GOFLAGS=")
	b.run(build)
	return dir
}

// TestEmulation builds for a platform that is emulated, on a machine that knows nothing
// of it but has the emulator; and for the same platform without one.
func TestEmulation(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.foreign()
	b.must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY foreign /bin/foreign\nRUN [\"/bin/foreign\"]\nRUN [\"/bin/foreign\"]\n"), 0o644))
	args := []string{"build", "--progress=plain", "--frontend=dockerfile.v0", "--local=context=" + dir, "--local=dockerfile=" + dir, "--opt=platform=linux/arm64"}
	if got := b.run(b.daemon.Client("buildctl", args...)).stderr; strings.Count(got, "this is arm64") != 2 {
		t.Errorf("output:\n%s", got)
	}
	if got := b.run(b.daemon.Client("buildctl", "debug", "workers")).stdout; !strings.Contains(got, "linux/arm64") {
		t.Errorf("workers:\n%s", got)
	}

	remapped := remapping(t, "--backend", "embedded")
	if got := remapped.run(remapped.daemon.Client("buildctl", args...)).stderr; strings.Count(got, "this is arm64") != 2 || strings.Count(got, " 300000 ") != 2 {
		t.Errorf("with other users, output:\n%s", got)
	}
	remapped.idle()

	// A daemon that finds no emulator: runc alone is on its PATH.
	runc, err := exec.LookPath("runc")
	b.must(err)
	bare := t.TempDir()
	b.must(os.Symlink(runc, filepath.Join(bare, "runc")))
	kilnd, err := exec.LookPath("kilnd")
	b.must(err)
	without := &testbed.Daemon{Program: "env", Dir: testbed.Dir(t)}
	without.Root, without.Addr = filepath.Join(without.Dir, "root"), "unix://"+filepath.Join(without.Dir, "kilnd.sock")
	without.Args = []string{"PATH=" + bare, kilnd, "--root", without.Root, "--addr", without.Addr, "--backend", "embedded"}
	without.Start(t)
	got := try(without.Client("buildctl", args...))
	if got.err == nil || !strings.Contains(got.stderr, "has no emulator for linux/arm64: install") {
		t.Errorf("error %v, output:\n%s", got.err, got.stderr)
	}
	b.idle()
}
