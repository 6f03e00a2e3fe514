// Package sandboxtest is the suite of tests that every sandbox.Runner passes. It
// runs real processes from a static busybox and needs root.
package sandboxtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
)

// test is one test of a runner.
type test func(*testing.T, sandbox.Runner)

// Run tests r. All runs are on roots of the suite's own.
func Run(t *testing.T, r sandbox.Runner) {
	if os.Geteuid() != 0 {
		t.Fatal("the sandbox tests start containers: run them as root")
	}
	for _, group := range []map[string]test{basics, files, identity, isolation, proxied, interactive, hostile} {
		for name, test := range group {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, r)
			})
		}
	}
}

// timeout is for one run, on a loaded machine or one that is emulated.
const timeout = 180 * time.Second

var ids atomic.Int64

// newSpec is a shell script on a new root.
func newSpec(t *testing.T, script string) sandbox.Spec {
	t.Helper()
	return newSpecOn(NewRoot(t), script)
}

// newSpecOn is a shell script on a root that nobody else uses.
func newSpecOn(root, script string) sandbox.Spec {
	return sandbox.Spec{
		ID:   fmt.Sprintf("suite-%d-%d-%d", os.Getpid(), time.Now().UnixNano(), ids.Add(1)),
		Root: root,
		Args: []string{"/bin/sh", "-c", script},
		Env:  []string{"PATH=/bin"},
	}
}

// output runs s and returns what it wrote to its standard output, then to the other.
func output(t *testing.T, r sandbox.Runner, s sandbox.Spec) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var out, errs bytes.Buffer
	err := r.Run(ctx, s, sandbox.IO{Stdout: &out, Stderr: &errs}, nil)
	return out.String() + errs.String(), err
}

// mustOutput is output of a run that has to succeed, without its last newline.
func mustOutput(t *testing.T, r sandbox.Runner, s sandbox.Spec) string {
	t.Helper()
	out, err := output(t, r, s)
	if err != nil {
		t.Fatalf("run: %v\n%s", err, out)
	}
	return strings.TrimSuffix(out, "\n")
}

func contextWithTimeout(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), timeout)
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}
