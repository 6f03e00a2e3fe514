package sandbox_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
)

func TestRunc(t *testing.T) {
	r, _ := newLocal(t, nil)
	sandboxtest.Run(t, r)
}

func TestNative(t *testing.T) {
	r, _ := newLocal(t, native(t))
	sandboxtest.Run(t, r)
}

// native is the configuration of a runner that must do without an OCI runtime.
func native(tb testing.TB) func(*sandbox.Config) {
	tb.Helper()
	program := sandboxtest.InitBinary(tb)
	return func(c *sandbox.Config) { c.Init, c.Binary = program, "/bin/false" }
}

// engines are what processes can be started by.
var engines = map[string]func(testing.TB) func(*sandbox.Config){
	"runc":   func(testing.TB) func(*sandbox.Config) { return nil },
	"native": native,
	"tasks":  byShim,
}

var parents atomic.Int64

// newLocal returns a Local on a state directory and a cgroup of its own, and checks at
// the end that nothing is left in them.
func newLocal(tb testing.TB, change func(*sandbox.Config)) (*sandbox.Local, sandbox.Config) {
	tb.Helper()
	parent := fmt.Sprintf("kiln-test-%d-%d", os.Getpid(), parents.Add(1))
	cfg := sandbox.Config{Binary: sandboxtest.RuntimeBinary(tb), StateDir: stateDir(tb), CgroupParent: parent}
	if change != nil {
		change(&cfg)
	}
	r, err := sandbox.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
		checkNothingLeft(tb, cfg)
		for _, dir := range cgroups(tb, cfg) {
			os.Remove(dir)
			os.Remove(filepath.Dir(dir))
		}
	})
	return r, cfg
}

// stateDir is on a tmpfs where there is one.
func stateDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sandbox-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// cgroups are the directories in which cfg's runs have their cgroups.
func cgroups(tb testing.TB, cfg sandbox.Config) []string {
	tb.Helper()
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/%s/kiln", "/sys/fs/cgroup/*/%s/kiln"} {
		dirs, err := filepath.Glob(fmt.Sprintf(pattern, cfg.CgroupParent))
		if err != nil {
			tb.Fatal(err)
		}
		found = append(found, dirs...)
	}
	return found
}

func checkNothingLeft(tb testing.TB, cfg sandbox.Config) {
	tb.Helper()
	for _, sub := range []string{"runs", "runtime"} {
		left, err := os.ReadDir(filepath.Join(cfg.StateDir, sub))
		if err != nil || len(left) != 0 {
			tb.Errorf("left in %s: %v, error %v", sub, left, err)
		}
	}
	for _, dir := range cgroups(tb, cfg) {
		left, err := filepath.Glob(dir + "/*/cgroup.procs")
		if err != nil || len(left) != 0 {
			tb.Errorf("cgroups left: %v, error %v", left, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), cfg.StateDir) {
		tb.Errorf("mounts left, error %v:\n%s", err, mounts)
	}
}

// processes are the ids of processes, in any namespace, with word in their command line.
func processes(tb testing.TB, word string) []string {
	tb.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		tb.Fatal(err)
	}
	var ids []string
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), word) {
			ids = append(ids, filepath.Base(filepath.Dir(file)))
		}
	}
	return ids
}

// collect runs s and returns its output.
func collect(ctx context.Context, r sandbox.Runner, s sandbox.Spec) (string, error) {
	var out strings.Builder
	err := r.Run(ctx, s, sandbox.IO{Stdout: &out}, nil)
	return out.String(), err
}

// BenchmarkRunc and BenchmarkNative are one step that does nothing.
func BenchmarkRunc(b *testing.B)   { benchmark(b, nil) }
func BenchmarkNative(b *testing.B) { benchmark(b, native(b)) }

func benchmark(b *testing.B, change func(*sandbox.Config)) {
	r, _ := newLocal(b, change)
	s := sandbox.Spec{ID: "bench", Root: sandboxtest.NewRoot(b), Args: []string{"/bin/true"}}
	for b.Loop() {
		if err := r.Run(b.Context(), s, sandbox.IO{}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
