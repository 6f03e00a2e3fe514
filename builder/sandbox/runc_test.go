package sandbox_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
)

// newRunc returns a Runc on a state directory of its own, and checks at the end that
// nothing is left in it.
func newRunc(tb testing.TB, change func(*sandbox.Config)) (*sandbox.Runc, string) {
	tb.Helper()
	dir := stateDir(tb)
	cfg := sandbox.Config{Binary: sandboxtest.RuntimeBinary(tb), StateDir: dir}
	if change != nil {
		change(&cfg)
	}
	r, err := sandbox.NewRunc(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return r, dir
}

// stateDir is on a tmpfs where there is one.
func stateDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sandbox-")
	if err != nil {
		dir = tb.TempDir()
	}
	tb.Cleanup(func() {
		for _, sub := range []string{"runs", "runtime"} {
			left, err := os.ReadDir(filepath.Join(dir, sub))
			if err != nil || len(left) != 0 {
				tb.Errorf("left in %s: %v, error %v", sub, left, err)
			}
		}
		os.RemoveAll(dir)
	})
	return dir
}

func TestRunc(t *testing.T) {
	r, _ := newRunc(t, nil)
	sandboxtest.Run(t, r)
}

func BenchmarkRun(b *testing.B) {
	r, _ := newRunc(b, nil)
	root := sandboxtest.NewRoot(b)
	for b.Loop() {
		err := r.Run(b.Context(), sandbox.Spec{ID: "bench", Root: root, Args: []string{"/bin/true"}}, sandbox.IO{}, nil)
		if err != nil {
			b.Fatal(err)
		}
	}
}
