package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/console"
)

// writeGrace is how long a writer may still block after a run was cancelled.
const writeGrace = time.Second

// streams connect a child of ours, a runtime or what becomes the process itself, to an
// IO: through pipes, or through a terminal that a runtime connects with the one in the
// sandbox.
type streams struct {
	stdin, stdout, stderr *os.File // the child's ends; nil is /dev/null

	theirs  []io.Closer // to close when the child has them
	ours    []io.Closer // to close at the end
	source  io.Reader   // the caller's Stdin
	term    console.Console
	outputs []io.Reader    // what is copied to the caller's writers
	pending sync.WaitGroup // copies to the caller's writers
}

// give makes them those of a command that is to be started.
func (s *streams) give(cmd *exec.Cmd) {
	// A nil *os.File in an interface would be a descriptor that is closed.
	if s.stdin != nil {
		cmd.Stdin = s.stdin
	}
	if s.stdout != nil {
		cmd.Stdout = s.stdout
	}
	if s.stderr != nil {
		cmd.Stderr = s.stderr
	}
}

// openStreams makes the streams of a child. They are given to the owner, if there is
// one: else it is the child that gives them to its user.
func openStreams(io IO, terminal bool, to *owner) (*streams, error) {
	s := &streams{source: io.Stdin}
	open := s.openPipes
	if terminal {
		open = s.openTerminal
	}
	err := open(io)
	if err == nil && to != nil {
		err = s.chown(*to)
	}
	if err != nil {
		s.started()
		s.closeOurs()
		return nil, fmt.Errorf("standard streams: %w", err)
	}
	return s, nil
}

// chown gives the child's ends to a user of the host, who could not open /dev/stdout
// otherwise.
func (s *streams) chown(to owner) error {
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if f == nil {
			continue
		}
		if err := f.Chown(int(to.uid), int(to.gid)); err != nil {
			return err
		}
	}
	return nil
}

func (s *streams) openPipes(io IO) error {
	var err error
	if io.Stdin != nil {
		r, w, perr := os.Pipe()
		if perr != nil {
			return perr
		}
		s.stdin = r
		s.own(r, w)
		go s.feed(w)
	}
	if s.stdout, err = s.collect(io.Stdout); err != nil {
		return err
	}
	s.stderr, err = s.collect(io.Stderr)
	return err
}

// own notes the child's end and ours of a connection.
func (s *streams) own(theirs, ours io.Closer) {
	s.theirs = append(s.theirs, theirs)
	s.ours = append(s.ours, ours)
}

// feed copies the caller's Stdin to w. It ends with either of them.
func (s *streams) feed(w io.WriteCloser) {
	io.Copy(w, s.source) //nolint:errcheck // an input that breaks off is one that ends
	if s.term == nil {
		w.Close()
	}
}

// collect returns the end of a pipe from which all is copied to dst.
func (s *streams) collect(dst io.Writer) (*os.File, error) {
	if dst == nil {
		return nil, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.own(w, r)
	s.outputs = append(s.outputs, r)
	s.pending.Go(func() { drain(dst, r) })
	return w, nil
}

// drain copies r to dst and, if dst fails, reads on: a process is not stopped by
// its log's reader.
func drain(dst io.Writer, r io.Reader) {
	if _, err := io.Copy(dst, r); err != nil {
		io.Copy(io.Discard, r) //nolint:errcheck // ends with the process
	}
}

func (s *streams) openTerminal(streams IO) error {
	term, name, err := console.NewPty()
	if err != nil {
		return err
	}
	s.ours = append(s.ours, term)
	tty, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	s.theirs = append(s.theirs, tty)
	s.term, s.stdin, s.stdout, s.stderr = term, tty, tty, tty
	s.copyTerminal(streams.Stdout)
	return nil
}

// copyTerminal connects the terminal with the caller.
func (s *streams) copyTerminal(dst io.Writer) {
	if dst == nil {
		dst = io.Discard
	}
	s.outputs = append(s.outputs, s.term)
	s.pending.Go(func() { drain(dst, s.term) }) // ends with EIO when the last process closed its end
	if s.source != nil {
		go s.feed(s.term)
	}
}

// laterStreams connect a process that makes a terminal of its own, see connect.
func laterStreams(io IO) *streams { return &streams{source: io.Stdin} }

// connect connects the terminal that a process made.
func (s *streams) connect(term console.Console, dst io.Writer) {
	s.ours = append(s.ours, term)
	s.term = term
	s.copyTerminal(dst)
}

// discard reads what a blocked writer keeps the child from writing, and so from
// ending.
func (s *streams) discard() {
	for _, r := range s.outputs {
		go io.Copy(io.Discard, r) //nolint:errcheck // ends with the child
	}
}

// resize sets the terminal's size and tells the runtime, if there is one, which passes
// it on.
func (s *streams) resize(size WinSize, runtime *os.Process) {
	if s.term == nil {
		return
	}
	ws := console.WinSize{Height: uint16(min(size.Rows, 0xffff)), Width: uint16(min(size.Cols, 0xffff))}
	if s.term.Resize(ws) == nil && runtime != nil {
		runtime.Signal(syscall.SIGWINCH) //nolint:errcheck // it may have just ended
	}
}

// started is called when the child has its ends of the streams.
func (s *streams) started() {
	for _, c := range s.theirs {
		c.Close()
	}
	s.theirs = nil
}

// close waits until what the process wrote has been passed on, or a little longer
// than ctx.
func (s *streams) close(ctx context.Context) {
	s.started()
	awaitGrace(ctx, s.pending.Wait)
	s.closeOurs()
}

// awaitGrace returns when wait does, or writeGrace after the end of ctx.
func awaitGrace(ctx context.Context, wait func()) {
	done := make(chan struct{})
	go func() {
		wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		select {
		case <-done:
		case <-time.After(writeGrace):
		}
	}
}

func (s *streams) closeOurs() {
	for _, c := range s.ours {
		if err := c.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			continue // nothing is lost: the other end is gone
		}
	}
	if c, ok := s.source.(io.Closer); ok {
		c.Close()
	}
}
