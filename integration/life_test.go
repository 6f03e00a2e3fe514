package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

const (
	startOfStep = 10 * time.Second // for a build to come to its step
	endOfBuild  = 10 * time.Second // for a build that can't go on
)

// client is a build that runs while the test goes on.
type client struct {
	cmd    *exec.Cmd
	stderr string // path
	done   chan struct{}
	err    error // once done is closed
}

// begin starts a build and waits until one of its steps says "started".
func (b *bed) begin(args ...string) *client {
	b.Helper()
	c := &client{cmd: b.daemon.Client("kiln", append([]string{"build"}, args...)...), done: make(chan struct{})}
	c.stderr = filepath.Join(b.TempDir(), "stderr")
	file, err := os.Create(c.stderr)
	b.must(err)
	defer file.Close()
	c.cmd.Stderr = file
	b.must(c.cmd.Start())
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	b.Cleanup(func() { c.signal(syscall.SIGKILL) })
	b.must(testbed.Eventually(startOfStep, func() error {
		if !strings.Contains(c.text(), " started\n") {
			return fmt.Errorf("the step has not started:\n%s", c.text())
		}
		return nil
	}))
	return c
}

// text is what the client has shown so far.
func (c *client) text() string {
	text, err := os.ReadFile(c.stderr)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (c *client) signal(sig syscall.Signal) { c.cmd.Process.Signal(sig) }

// wait waits for the client's end.
func (c *client) wait(limit time.Duration) error {
	select {
	case <-c.done:
		return c.err
	case <-time.After(limit):
		return fmt.Errorf("%w; it has shown\n%s", errStillRunning, c.text())
	}
}

var errStillRunning = errors.New("the client is still running")

const longStep = `
-- Dockerfile --
FROM BASE
RUN echo before > /before
RUN echo started; sleep 1000
`

// TestClientGoesAway ends clients in the middle of a step. The step ends too,
// and nothing of it stays.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	onBoth(t, func(b *bed) {
		dir := b.files(longStep)
		for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "interrupted": syscall.SIGINT} {
			c := b.begin("--no-cache", dir)
			c.signal(sig)
			if err := c.wait(endOfBuild); err == nil || errors.Is(err, errStillRunning) {
				b.Errorf("%s: %v", name, err)
			}
			b.must(testbed.Eventually(endOfBuild, b.noSteps))
		}
		b.idle()
	})
}

// TestOneOfTwoClientsGoesAway: both wait for the same step, which goes on for
// the one that stays.
func TestOneOfTwoClientsGoesAway(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	gate := testbed.Dir(t)
	dir := b.files(`
-- Dockerfile --
FROM BASE AS made
RUN echo started; sleep 3; date +%N > /out
FROM scratch
COPY --from=made /out /
`)
	first, second := filepath.Join(gate, "first"), filepath.Join(gate, "second")
	leaves := b.begin("--output", first, dir)
	stays := b.begin("--output", second, dir)
	leaves.signal(syscall.SIGKILL)
	if err := stays.wait(30 * time.Second); err != nil {
		t.Fatalf("%v\n%s", err, stays.text())
	}
	if got := b.tree(second)["out"]; got == "" {
		t.Error("the step has left nothing")
	}
	if strings.Count(stays.text(), " started\n") != 1 {
		t.Errorf("the step ran more than once:\n%s", stays.text())
	}
	b.idle()
}

// TestSecondDaemon: a root has one daemon.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	out := try(exec.Command("kilnd", "--backend", "embedded", "--root", b.daemon.Root, "--addr", b.daemon.Addr+"2"))
	for _, want := range []string{b.daemon.Root, "in use", "--root"} {
		if out.err == nil || !strings.Contains(out.stderr, want) {
			t.Errorf("%v: %q is not in\n%s", out.err, want, out.stderr)
		}
	}
	b.build(b.files(fourSteps))
}

// TestSecondDaemonOnTheSocket: a socket that a daemon serves is not taken from it.
func TestSecondDaemonOnTheSocket(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	out := try(exec.Command("kilnd", "--backend", "embedded", "--root", filepath.Join(testbed.Dir(t), "other"), "--addr", b.daemon.Addr))
	if out.err == nil || !strings.Contains(out.stderr, b.daemon.Addr+": another process answers there") {
		t.Errorf("%v\n%s", out.err, out.stderr)
	}
	b.build(b.files(fourSteps))
}

// TestStopWhileBuilding: the daemon ends its builds, tells their clients, and
// leaves nothing. The bed looks for mounts and processes at the end.
func TestStopWhileBuilding(t *testing.T) {
	t.Parallel()
	onBoth(t, func(b *bed) {
		c := b.begin(b.files(longStep))
		start := time.Now()
		b.must(b.daemon.Stop())
		if took := time.Since(start); took > 10*time.Second {
			b.Errorf("stopping took %v", took)
		}
		if err := c.wait(endOfBuild); err == nil || errors.Is(err, errStillRunning) {
			b.Errorf("the client ended with %v", err)
		}
		if !strings.Contains(c.text(), "error: ") {
			b.Errorf("the client shows no error:\n%s", c.text())
		}
	})
}

// TestKilledDaemon: the next daemon on the root removes what the step of the
// killed one left, and has the cache of before.
func TestKilledDaemon(t *testing.T) {
	t.Parallel()
	onBoth(t, func(b *bed) {
		dir := b.files(longStep)
		c := b.begin(dir)
		b.must(b.daemon.Kill())
		if err := c.wait(endOfBuild); err == nil || errors.Is(err, errStillRunning) {
			b.Errorf("the client ended with %v", err)
		}
		b.daemon.Start(b.T)
		b.must(testbed.Eventually(endOfBuild, b.noSteps))
		b.must(b.noMounts())
		b.must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(
			"FROM "+registry.Host+"/busybox\nRUN echo before > /before\nRUN test -s /before\n"), 0o644))
		out := b.build(dir)
		if cached, _ := out.cached(); len(cached) != 1 {
			b.Errorf("from the cache came %q\n%s", cached, out.stderr)
		}
		b.idle()
	})
}

// TestNohup: a daemon that was started to outlive its terminal does so, and its steps
// can be sent what it ignores.
func TestNohup(t *testing.T) {
	t.Parallel()
	dir := testbed.Dir(t)
	b := &bed{T: t, daemon: &testbed.Daemon{Program: "nohup", Dir: dir, Root: filepath.Join(dir, "root"), Addr: "unix://" + filepath.Join(dir, "kilnd.sock")}}
	b.daemon.Args = []string{"kilnd", "--root", b.daemon.Root, "--addr", b.daemon.Addr, "--backend", "embedded"}
	b.daemon.Start(t)
	b.must(b.daemon.Signal(syscall.SIGHUP))
	out := t.TempDir()
	b.build("--output", out, b.files(`
-- Dockerfile --
FROM BASE AS made
RUN trap 'echo got it > /out' HUP; kill -HUP $$
FROM scratch
COPY --from=made /out /
`))
	if got := b.tree(out)["out"]; got != "got it\n" {
		t.Errorf("the step wrote %q", got)
	}
	b.idle()
}
