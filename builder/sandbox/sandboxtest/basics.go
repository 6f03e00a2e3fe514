package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
)

var basics = map[string]test{
	"success":         testSuccess,
	"exit code":       testExitCode,
	"ended by signal": testEndedBySignal,
	"no command":      testNoCommand,
	"streams":         testStreams,
	"started":         testStarted,
	"cancel":          testCancel,
	"cancelled":       testAlreadyCancelled,
	"deadline cause":  testCause,
}

func testSuccess(t *testing.T, r sandbox.Runner) {
	if got := mustOutput(t, r, newSpec(t, "echo hello")); got != "hello" {
		t.Errorf("output %q", got)
	}
}

func testExitCode(t *testing.T, r sandbox.Runner) {
	_, err := output(t, r, newSpec(t, "exit 3"))
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || exit.Error() != "exit code: 3" {
		t.Errorf("error %v", err)
	}
}

func testEndedBySignal(t *testing.T, r sandbox.Runner) {
	_, err := output(t, r, newSpec(t, "sh -c 'kill -TERM $$'; exit $?"))
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) || exit.Code != 128+15 {
		t.Errorf("error %v", err)
	}
}

func testNoCommand(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "")
	s.Args = []string{"/no/such/command"}
	_, err := output(t, r, s)
	var start *sandbox.StartError
	if !errors.As(err, &start) || !strings.Contains(err.Error(), "/no/such/command") {
		t.Errorf("error %v", err)
	}
}

func testStreams(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "cat; echo oops >&2")
	input := strings.Repeat("0123456789abcdef", 64<<10)
	var out, errs bytes.Buffer
	err := r.Run(t.Context(), s, sandbox.IO{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errs}, nil)
	if err != nil || out.String() != input || errs.String() != "oops\n" {
		t.Errorf("error %v, %d of %d bytes, stderr %q", err, out.Len(), len(input), errs.String())
	}
}

func testStarted(t *testing.T, r sandbox.Runner) {
	calls := 0
	s := newSpec(t, "true")
	if err := r.Run(t.Context(), s, sandbox.IO{}, func() { calls++ }); err != nil || calls != 1 {
		t.Errorf("error %v, started called %d times", err, calls)
	}
	s.Args = []string{"/nothing"}
	if err := r.Run(t.Context(), s, sandbox.IO{}, func() { calls++ }); err == nil || calls != 1 {
		t.Errorf("error %v, started called for a process that did not", err)
	}
}

func testCancel(t *testing.T, r sandbox.Runner) {
	ctx, cancel := context.WithCancel(t.Context())
	s := newSpec(t, "sleep 1000 & trap '' TERM; echo up > /up; wait; sleep 1000")
	begin := time.Now()
	err := r.Run(ctx, s, sandbox.IO{Stdout: os.Stdout, Stderr: os.Stderr}, cancel)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(begin); took > timeout/2 {
		t.Errorf("took %v", took)
	}
}

func testAlreadyCancelled(t *testing.T, r sandbox.Runner) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := newSpec(t, "touch /ran")
	if err := r.Run(ctx, s, sandbox.IO{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(s.Root + "/ran"); err == nil {
		t.Error("the process ran")
	}
}

func testCause(t *testing.T, r sandbox.Runner) {
	why := errors.New("nobody waits any more")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := r.Run(ctx, newSpec(t, "sleep 1000"), sandbox.IO{}, func() { cancel(why) })
	if !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
}
