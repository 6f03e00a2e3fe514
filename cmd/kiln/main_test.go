package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"

	"github.com/kiln-build/kiln/nerdctlext/daemontest"
)

// TestMain is the program itself when the test binary is called by one of its names.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "kiln", "buildctl":
		main()
	}
	os.Exit(m.Run())
}

// program returns a command that runs this program under the name.
func program(t *testing.T, name string, daemon *daemontest.Daemon, argv ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, argv...)
	cmd.Env = []string{"KILN_HOST=" + daemon.Address(), "BUILDKIT_HOST=" + daemon.Address(), "HOME=" + t.TempDir()}
	return cmd
}

func TestNamesOfTheProgram(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	for name, argv := range map[string][]string{"kiln": {"workers"}, "buildctl": {"debug", "workers"}} {
		out, err := program(t, name, daemon, argv...).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "ID") {
			t.Errorf("%s: %s, %v", name, out, err)
		}
	}
	out, err := program(t, "buildctl", daemon, "workers").CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 || !strings.HasPrefix(string(out), "error: ") {
		t.Errorf("a command of kiln's under buildctl: %s, %v", out, err)
	}
}

// building starts a build that does not end by itself.
func building(t *testing.T, daemon *daemontest.Daemon) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	began := make(chan struct{})
	daemon.Compute = func(ctx context.Context, _ session.Caller, _ *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		close(began)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	cmd := program(t, "kiln", daemon, "build", "-f", "-", ".")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Stdin = strings.NewReader("FROM scratch")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-began:
	case <-time.After(10 * time.Second):
		t.Fatal("the build does not begin")
	}
	return cmd, &stderr
}

func TestSignalCancelsTheBuild(t *testing.T) {
	t.Parallel()
	cmd, stderr := building(t, daemontest.Start(t))
	cmd.Process.Signal(syscall.SIGINT)
	err := cmd.Wait()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 || !strings.Contains(stderr.String(), "canceled") {
		t.Errorf("%v: %s", err, stderr)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.HoldStatus = make(chan struct{})
	defer close(daemon.HoldStatus)
	cmd, stderr := building(t, daemon)
	started := time.Now()
	cmd.Process.Signal(syscall.SIGTERM)
	time.Sleep(300 * time.Millisecond) // two signals at once are one
	cmd.Process.Signal(syscall.SIGTERM)
	err := cmd.Wait()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 || !strings.Contains(stderr.String(), "second signal") {
		t.Errorf("%v: %s", err, stderr)
	}
	if time.Since(started) > 4*time.Second {
		t.Errorf("it took %s", time.Since(started))
	}
}
