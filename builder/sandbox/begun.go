package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/containerd/console"
	"github.com/kiln-build/kiln/builder/sandbox/inside"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// begun is a process that runs kiln-init and will be another.
type begun struct {
	name    string // the command, for messages
	cmd     *exec.Cmd
	io      IO
	streams *streams
	control *net.UnixConn
	theirs  *os.File // the other end of control
	reach   reach
}

// begin makes what a process needs before it starts.
func (n *native) begin(p *specs.Process, io IO, to *owner) (*begun, error) {
	s := laterStreams(io)
	if !p.Terminal {
		var err error
		if s, err = openStreams(io, false, to); err != nil {
			return nil, err
		}
	}
	control, theirs, err := socketPair()
	if err != nil {
		s.close(context.Background())
		return nil, err
	}
	cmd := exec.Command(n.path)
	cmd.Args = []string{"kiln-init"}
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=off"} // it is too short for more threads
	s.give(cmd)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return &begun{name: p.Args[0], cmd: cmd, io: io, streams: s, control: control, theirs: theirs}, nil
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "control")
	f := os.NewFile(uintptr(fds[0]), "control")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// start starts the process with a function that does so. After an error everything
// is closed.
func (b *begun) start(ctx context.Context, start func(*exec.Cmd) error) error {
	err := start(b.cmd)
	b.theirs.Close()
	if err != nil {
		b.control.Close()
		b.streams.close(ctx)
		return err
	}
	b.streams.started()
	return nil
}

// give tells the process what to become.
func (b *begun) give(o *inside.Order) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if _, err := b.control.Write(text); err != nil {
		return err
	}
	return b.control.CloseWrite()
}

// abort ends the process before it is another.
func (b *begun) abort(ctx context.Context) {
	b.cmd.Process.Kill() //nolint:errcheck // it may have just ended
	b.cmd.Wait()         //nolint:errcheck // it was killed
	b.control.Close()
	b.streams.close(ctx)
}

// maxReport bounds what a process says before it is another, in bytes.
const maxReport = 64 << 10

// report is something that the process said.
type report struct {
	terminal console.Console
	ready    bool   // all is done but to execute
	failure  string // it can't become another
	err      error  // it said something else
}

// listen passes on what the process says, until it is another or has ended.
func (b *begun) listen(said chan<- report) {
	defer close(said)
	buf, oob := make([]byte, maxReport), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := b.control.ReadMsgUnix(buf, oob)
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || err == nil && n == 0 {
			return
		}
		if err != nil {
			said <- report{err: err}
			return
		}
		text := buf[:n]
		for len(text) > 0 {
			switch text[0] {
			case inside.Terminal:
				term, err := terminalOf(oob[:oobn])
				said <- report{terminal: term, err: err}
				text = text[1:]
			case inside.Ready:
				said <- report{ready: true}
				text = text[1:]
			default:
				var f inside.Failure
				err := json.Unmarshal(text, &f)
				said <- report{failure: f.Reason, err: err}
				text = nil
			}
		}
	}
}

// terminalOf is the descriptor of a terminal in a message.
func terminalOf(oob []byte) (console.Console, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, errors.New("terminal without a descriptor")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("terminal with %d descriptors: %w", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return console.ConsoleFromFile(os.NewFile(uintptr(fds[0]), "terminal"))
}

// wait returns when the process has ended. It calls started when it is another.
func (b *begun) wait(ctx context.Context, started func()) error {
	said, exited := make(chan report), make(chan struct{})
	go b.listen(said)
	go func() {
		defer close(exited)
		// It is reaped later, so that its id is not another's while we may signal it.
		for unix.Waitid(unix.P_PID, b.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	w := &waiting{begun: b, started: started}
	w.loop(ctx, said, exited)
	b.cmd.Wait() //nolint:errcheck // ProcessState tells
	b.control.Close()
	b.streams.close(ctx)
	return w.result(ctx)
}

// waiting is the state of a wait.
type waiting struct {
	*begun
	started func()
	ready   bool // all is done but to execute
	up      bool // the process is another
	killed  bool
	blocked <-chan time.Time // when a writer blocks a process that was killed
	failed  *report
	pending []syscall.Signal // to be sent when it is up
	size    *WinSize         // that the terminal has, or will have
}

// loop returns when the process has ended and all it said was heard.
func (w *waiting) loop(ctx context.Context, said <-chan report, exited <-chan struct{}) {
	stop := make(chan struct{})
	defer close(stop)
	wanted := wishes(ctx, w.io, stop)
	for said != nil || exited != nil {
		select {
		case r, ok := <-said:
			if !ok {
				said = nil
				w.silent()
				break
			}
			w.heard(r)
		case <-exited:
			exited = nil
		case <-w.blocked:
			w.streams.discard()
		case wish := <-wanted:
			wish(w)
		}
	}
}

// end implements steered.
func (w *waiting) end() {
	w.killed, w.blocked = true, time.After(writeGrace)
	w.kill()
}

// resize implements steered.
func (w *waiting) resize(size WinSize) {
	w.size = &size
	w.streams.resize(size, nil)
}

// heard takes in what the process said.
func (w *waiting) heard(r report) {
	switch {
	case r.err != nil || r.failure != "":
		w.failed = &r
		w.kill()
	case r.ready:
		w.ready = true
	case r.terminal != nil:
		w.streams.connect(r.terminal, w.io.Stdout)
		if w.size != nil {
			w.streams.resize(*w.size, nil)
		}
	}
}

// silent is called when the process says no more: it is another, if it didn't fail.
func (w *waiting) silent() {
	if !w.ready || w.failed != nil {
		return
	}
	w.up = true
	w.started()
	for _, sig := range w.pending {
		w.send(sig)
	}
}

// kill ends the process and what dies with it.
func (w *waiting) kill() {
	if w.reach == processGroup {
		unix.Kill(-w.cmd.Process.Pid, unix.SIGKILL) //nolint:errcheck // it may have just ended
	}
	w.cmd.Process.Kill() //nolint:errcheck // see above
}

// send signals the process, now or as soon as it is another.
func (w *waiting) send(sig syscall.Signal) {
	switch {
	case !w.up:
		w.pending = append(w.pending, sig)
	case sig == unix.SIGKILL:
		w.kill()
	default:
		w.cmd.Process.Signal(sig) //nolint:errcheck // it may have just ended
	}
}

// result says how the process ended.
func (w *waiting) result(ctx context.Context) error {
	status, _ := w.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case w.killed:
		return fmt.Errorf("run %q: killed: %w", w.name, context.Cause(ctx))
	case w.failed != nil && w.failed.err != nil:
		return &StartError{Command: w.name, Reason: w.failed.err.Error()}
	case w.failed != nil:
		return &StartError{Command: w.name, Reason: w.failed.failure}
	case !w.up:
		return &StartError{Command: w.name, Reason: fmt.Sprintf("it ended before that: %v", w.cmd.ProcessState)}
	case status.Signaled():
		return &ExitError{Code: 128 + int(status.Signal())}
	case status.ExitStatus() > 0:
		return &ExitError{Code: status.ExitStatus()}
	}
	return nil
}
