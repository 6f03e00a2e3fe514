package sandboxtest

import (
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/sandbox"
)

var interactive = map[string]test{
	"terminal":        testTerminal,
	"signal":          testSignal,
	"exec":            testExec,
	"exec unknown":    testExecUnknown,
	"exec waits":      testExecWaits,
	"exec cancelled":  testExecCancelled,
	"exec at the end": testExecAtEnd,
	"exec security":   testExecSecurity,
	"exec terminal":   testExecTerminal,
	"stdin closed":    testStdinClosed,
}

func testTerminal(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, `test -t 0 && test -t 1 && test -t 2 && echo tty
read line; echo "<$line>"; while [ "$(stty size)" != "33 77" ]; do sleep 0.05; done; echo sized`)
	s.Terminal = true
	in, out := newPipe(t), &lockedBuffer{}
	size := make(chan sandbox.WinSize, 1)
	size <- sandbox.WinSize{Rows: 33, Cols: 77}
	go io.WriteString(in.w, "typed\n") //nolint:errcheck // the test fails if it does
	err := r.Run(deadline(t), s, sandbox.IO{Stdin: in.r, Stdout: out, Resize: size}, nil)
	if err != nil || !strings.Contains(out.String(), "tty\r\n") || !strings.Contains(out.String(), "<typed>\r\n") || !strings.HasSuffix(out.String(), "sized\r\n") {
		t.Errorf("error %v, output %q", err, out.String())
	}
}

func testSignal(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "trap 'echo got it; exit 9' USR1; touch /ready; while :; do sleep 0.05; done")
	signals, out := make(chan syscall.Signal, 1), &lockedBuffer{}
	go func() {
		waitFor(t, s.Root+"/ready")
		signals <- syscall.SIGUSR1
	}()
	err := r.Run(deadline(t), s, sandbox.IO{Stdout: out, Signal: signals}, nil)
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) || exit.Code != 9 || out.String() != "got it\n" {
		t.Errorf("error %v, output %q", err, out.String())
	}
	signals <- syscall.SIGKILL
	err = r.Run(deadline(t), s, sandbox.IO{Signal: signals}, nil)
	if !errors.As(err, &exit) || exit.Code != 128+9 {
		t.Errorf("error %v", err)
	}
}

// background starts s and returns when its process runs, with a function that ends it
// and returns Run's error.
func background(t *testing.T, r sandbox.Runner, s sandbox.Spec) (end func() error) {
	s.Shared = true
	t.Helper()
	ctx, cancel := context.WithCancel(deadline(t))
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.Run(ctx, s, sandbox.IO{}, func() { close(started) }) }()
	select {
	case <-started:
	case err := <-ended:
		cancel()
		t.Fatalf("run: %v", err)
	}
	return func() error {
		cancel()
		return <-ended
	}
}

func testExec(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "sleep 1000")
	s.Env, s.Cwd = append(s.Env, "FROM=spec"), "/work"
	write(t, s.Root+"/etc/passwd", passwd)
	write(t, s.Root+"/etc/group", group)
	end := background(t, r, s)
	defer end() //nolint:errcheck // it is cancelled
	for _, c := range []struct {
		p    sandbox.Process
		want string
	}{
		{sandbox.Process{Args: sh("pwd; echo $FROM; id -u; ls -d /proc/1")}, "/work\nspec\n0\n/proc/1\n"},
		{sandbox.Process{Args: sh("pwd; echo $FROM; id -u -n; id -G"), Env: []string{"PATH=/bin", "FROM=p"}, Cwd: "/bin", User: "ann"}, "/bin\np\nann\n100 10 26\n"},
		{sandbox.Process{Args: sh("cat"), User: "5:6"}, "input"},
	} {
		out := &lockedBuffer{}
		started := 0
		err := r.Exec(deadline(t), s.ID, c.p, sandbox.IO{Stdin: strings.NewReader("input"), Stdout: out, Stderr: out}, func() { started++ })
		if err != nil || out.String() != c.want || started != 1 {
			t.Errorf("%q: error %v, output %q, started %d times", c.p.Args, err, out.String(), started)
		}
	}
	var exit *sandbox.ExitError
	if err := r.Exec(deadline(t), s.ID, sandbox.Process{Args: sh("exit 5")}, sandbox.IO{}, nil); !errors.As(err, &exit) || exit.Code != 5 {
		t.Errorf("error %v", err)
	}
	var start *sandbox.StartError
	if err := r.Exec(deadline(t), s.ID, sandbox.Process{Args: []string{"/nothing"}}, sandbox.IO{}, nil); !errors.As(err, &start) {
		t.Errorf("error %v", err)
	}
	for _, p := range []sandbox.Process{{}, {Args: sh("true"), User: "nobody"}, {Args: sh("true"), Cwd: "x"}, {Args: sh("true"), Security: 9}} {
		if err := r.Exec(deadline(t), s.ID, p, sandbox.IO{}, nil); err == nil {
			t.Errorf("accepted: %+v", p)
		}
	}
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func testExecUnknown(t *testing.T, r sandbox.Runner) {
	for _, id := range []string{"", "unknown", "../x", "--help"} {
		if err := r.Exec(deadline(t), id, sandbox.Process{Args: sh("true")}, sandbox.IO{}, nil); !errdefs.IsNotFound(err) {
			t.Errorf("%q: error %v", id, err)
		}
	}
	s := newSpec(t, "true")
	mustOutput(t, r, s)
	if err := r.Exec(deadline(t), s.ID, sandbox.Process{Args: sh("true")}, sandbox.IO{}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("ended run: error %v", err)
	}
}

// testExecWaits starts processes while the first one is being started.
func testExecWaits(t *testing.T, r sandbox.Runner) {
	for range 5 {
		s := newSpec(t, "sleep 1000")
		s.Shared = true
		ctx, cancel := context.WithCancel(deadline(t))
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx, s, sandbox.IO{}, nil) }()
		for {
			err := r.Exec(ctx, s.ID, sandbox.Process{Args: sh("true")}, sandbox.IO{}, nil)
			if err == nil {
				break
			}
			if !errdefs.IsNotFound(err) || ctx.Err() != nil {
				t.Errorf("error %v", err)
				break
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	}
}

func testExecCancelled(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "sleep 1000")
	end := background(t, r, s)
	defer end() //nolint:errcheck // it is cancelled
	ctx, cancel := context.WithCancel(deadline(t))
	err := r.Exec(ctx, s.ID, sandbox.Process{Args: sh("sleep 2000 | cat")}, sandbox.IO{Stdout: io.Discard}, cancel)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	out := &lockedBuffer{}
	err = r.Exec(deadline(t), s.ID, sandbox.Process{Args: sh("ps")}, sandbox.IO{Stdout: out}, nil)
	if err != nil || strings.Contains(out.String(), "2000") || !strings.Contains(out.String(), "1000") {
		t.Errorf("error %v, processes left:\n%s", err, out.String())
	}
}

// testExecAtEnd ends the sandbox under a process, whose output is held open.
func testExecAtEnd(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "while [ ! -e /stop ]; do sleep 0.05; done")
	end := background(t, r, s)
	out := &lockedBuffer{}
	err := r.Exec(deadline(t), s.ID, sandbox.Process{Args: sh("touch /stop; sleep 1000")}, sandbox.IO{Stdout: out}, nil)
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) || exit.Code != 128+9 {
		t.Errorf("exec: %v", err)
	}
	if err := end(); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
}

func testExecSecurity(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "sleep 1000")
	end := background(t, r, s)
	defer end() //nolint:errcheck // it is cancelled
	insecure := sandbox.Process{Args: sh("grep CapEff /proc/self/status"), Security: sandbox.Insecure}
	if err := r.Exec(deadline(t), s.ID, insecure, sandbox.IO{}, nil); err == nil {
		t.Error("an insecure process was started in a sandbox")
	}
	out := &lockedBuffer{}
	plain := insecure
	plain.Security = sandbox.Sandboxed
	if err := r.Exec(deadline(t), s.ID, plain, sandbox.IO{Stdout: out}, nil); err != nil || !strings.Contains(out.String(), dockerCaps) {
		t.Errorf("error %v, %q", err, out.String())
	}
}

func testExecTerminal(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "sleep 1000")
	end := background(t, r, s)
	defer end() //nolint:errcheck // it is cancelled
	out := &lockedBuffer{}
	p := sandbox.Process{Args: sh("test -t 0 && test -t 1 && echo tty"), Terminal: true}
	if err := r.Exec(deadline(t), s.ID, p, sandbox.IO{Stdout: out}, nil); err != nil || out.String() != "tty\r\n" {
		t.Errorf("error %v, output %q", err, out.String())
	}
}

// testStdinClosed: a process that does not read its input ends nevertheless, and the
// blocked reader is released.
func testStdinClosed(t *testing.T, r sandbox.Runner) {
	in := newPipe(t)
	if err := r.Run(deadline(t), newSpec(t, "true"), sandbox.IO{Stdin: in.r}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in.w, "x"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("input is still open: %v", err)
	}
}

type pipe struct {
	r *io.PipeReader
	w *io.PipeWriter
}

func newPipe(t *testing.T) pipe {
	var p pipe
	p.r, p.w = io.Pipe()
	t.Cleanup(func() { p.w.Close() })
	return p
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}

func waitFor(t *testing.T, file string) {
	for end := time.Now().Add(timeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if exists(file) {
			return
		}
	}
	t.Errorf("%s did not appear", file)
}
