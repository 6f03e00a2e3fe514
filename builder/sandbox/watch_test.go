package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hanging is a runtime that never starts the process, and one that does not see it end.
const hanging = `#!/bin/sh
case "$*" in
*delete*) echo deleted > %[1]s/deleted; rm -rf %[1]s/state/runtime/hang; exit 0;;
esac
mkdir %[1]s/state/runtime/hang
echo $$ > %[1]s/pid
exec sleep 1000
`

// TestHangingRuntime: a cancelled run ends even if its runtime does not.
func TestHangingRuntime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	runtime := filepath.Join(dir, "runtime")
	if err := os.WriteFile(runtime, fmt.Appendf(nil, hanging, dir), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Binary: runtime, StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	c.patience = 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = c.Run(ctx, Spec{ID: "hang", Root: t.TempDir(), Args: []string{"x"}}, IO{Stdout: io.Discard}, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); err == nil {
		t.Error("the runtime still runs")
	}
	if _, err := os.Stat(filepath.Join(dir, "deleted")); err != nil {
		t.Errorf("the runtime's state was not deleted: %v", err)
	}
}

func TestChildOf(t *testing.T) {
	t.Parallel()
	// A name that looks like the end of a name.
	odd := filepath.Join(t.TempDir(), "a) S 1 (b")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sleep, odd); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(odd, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // it was killed
	}()
	if !childOf(cmd.Process.Pid, os.Getpid()) || childOf(cmd.Process.Pid, 1) || childOf(os.Getpid(), os.Getpid()) || childOf(1<<30, 1) {
		t.Error("wrong parent")
	}
}

func TestLastError(t *testing.T) {
	t.Parallel()
	state := &os.ProcessState{}
	for text, want := range map[string]string{
		"": "the OCI runtime failed without a message: exit status 0",
		`{"level":"error","msg":"first"}` + "\n" + `{"level":"error","msg":"runc run failed: unable to start container process: x"}` + "\n" + `{"level":"info","msg":"y"}`: "x",
		"not JSON\n" + `{"level":"error","msg":"z"}`: "z",
	} {
		file := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := lastError(file, state); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := lastError("/no/such/file", state); !strings.Contains(got, "without a message") {
		t.Errorf("got %q", got)
	}
}
