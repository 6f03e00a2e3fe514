package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Shim says how containerd runs processes, with any of its shims.
type Shim struct {
	// Address is the path of containerd's socket.
	Address string
	// Namespace is that of the containers.
	Namespace string
	// Runtime is a name such as "io.containerd.runc.v2" or "io.containerd.runsc.v1".
	Runtime string
	// Path is that of the shim's program; "" is for containerd to find it.
	Path string
	// Options are what the shim takes, as a message that typeurl knows; nil is none.
	Options any
}

// labelStep is on containers, with the state directory of the Local that made them.
const labelStep = "kiln.build/step"

// dialTimeout bounds how long containerd may take to answer at first.
const dialTimeout = 5 * time.Second

// startTimeout bounds one call that makes a process: a shim may start a machine for it.
const startTimeout = time.Minute

// tasks is the engine that has containerd start processes. It is slower than others,
// and for shims that shut processes in better.
type tasks struct {
	owner  string // the state directory of the Local
	shim   Shim
	client *client.Client
}

func newTasks(owner string, shim Shim) (*tasks, error) {
	conn, err := client.New(shim.Address, client.WithTimeout(dialTimeout))
	if err != nil {
		return nil, fmt.Errorf("runtime %s: containerd on %s: %w", shim.Runtime, shim.Address, err)
	}
	t := &tasks{owner: owner, shim: shim, client: conn}
	ctx, cancel := t.aside(context.Background())
	defer cancel()
	// It can't be asked for its shims; what it says of one names the program it misses.
	if _, err := conn.RuntimeInfo(ctx, t.program(), t.shim.Options); err != nil && !errdefs.IsNotImplemented(err) {
		return nil, errors.Join(fmt.Errorf("runtime %s: %w", shim.Runtime, err), conn.Close())
	}
	return t, nil
}

// program is what containerd finds the shim by.
func (t *tasks) program() string {
	if t.shim.Path != "" {
		return t.shim.Path
	}
	return t.shim.Runtime
}

// close implements engine.
func (t *tasks) close() error { return t.client.Close() }

// aside is a context for calls that have to be made although ctx may have ended.
func (t *tasks) aside(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.background(ctx), cleanupTimeout)
}

// starting is a context for what makes processes. It goes on when ctx ends: where
// containerd is interrupted in that, it leaves shims behind.
func (t *tasks) starting(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.background(ctx), startTimeout)
}

func (t *tasks) background(ctx context.Context) context.Context {
	return namespaces.WithNamespace(context.WithoutCancel(ctx), t.shim.Namespace)
}

// takes implements engine.
func (t *tasks) takes(*run) error { return nil }

// run implements engine.
func (t *tasks) run(ctx context.Context, r *run, io IO, started func()) error {
	if err := noteCgroup(r); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	task, streams, err := t.create(ctx, r, io)
	if err != nil {
		return &StartError{Command: r.Args[0], Reason: reason(err)}
	}
	return t.follow(ctx, following{process: task, name: r.Args[0], io: io, streams: streams, started: started})
}

// create makes a container and its task. What it made before an error is removed by
// remove.
func (t *tasks) create(ctx context.Context, r *run, io IO) (client.Task, *taskStreams, error) {
	ctx, cancel := t.starting(ctx)
	defer cancel()
	spec := *r.spec
	root := *r.spec.Root
	root.Path = "rootfs" // where the shim mounts it
	spec.Root = &root
	container, err := t.client.NewContainer(ctx, r.ID,
		client.WithRuntime(t.shim.Runtime, t.shim.Options), client.WithSpec(&spec),
		client.WithContainerLabels(map[string]string{labelStep: t.owner}))
	if err != nil {
		return nil, nil, err
	}
	streams := newTaskStreams(io)
	opts := []client.NewTaskOpts{client.WithRootFS([]mount.Mount{{Type: "bind", Source: r.Root, Options: []string{"rbind", "rw"}}})}
	if t.shim.Path != "" {
		opts = append(opts, client.WithRuntimePath(t.shim.Path))
	}
	task, err := container.NewTask(ctx, cio.NewCreator(streams.options(r.bundle, r.Terminal)...), opts...)
	if err != nil {
		streams.end()
	}
	return task, streams, err
}

// exec implements engine.
func (t *tasks) exec(ctx context.Context, r *run, p execution, io IO, started func()) error {
	sctx, cancel := t.starting(ctx)
	defer cancel()
	container, err := t.client.LoadContainer(sctx, r.ID)
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	task, err := container.Task(sctx, nil)
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	streams := newTaskStreams(io)
	process, err := task.Exec(sctx, filepath.Base(p.dir), p.Process, cio.NewCreator(streams.options(p.dir, p.Terminal)...))
	if err != nil {
		streams.end()
		return &StartError{Command: p.Args[0], Reason: reason(err)}
	}
	err = t.follow(ctx, following{process: process, name: p.Args[0], io: io, streams: streams, started: started})
	dctx, cancel := t.aside(ctx)
	defer cancel()
	if _, derr := process.Delete(dctx, client.WithProcessKill); derr != nil && !errdefs.IsNotFound(derr) {
		err = errors.Join(err, fmt.Errorf("remove process: %w", derr))
	}
	return err
}

// following is a process of containerd's that is to be started and followed.
type following struct {
	process client.Process
	name    string
	io      IO
	streams *taskStreams
	started func()
}

// follow starts a process and returns when it has ended.
func (t *tasks) follow(ctx context.Context, f following) error {
	if ctx.Err() != nil {
		f.streams.end()
		f.streams.drop(f.process)
		return fmt.Errorf("run %q: killed: %w", f.name, context.Cause(ctx))
	}
	// It must be known how it ends although ctx ends first.
	background := t.background(ctx)
	defer f.streams.close(ctx, f.process)
	ended, err := f.process.Wait(background)
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	if err := t.start(ctx, f); err != nil {
		return err
	}
	f.streams.feed(background, f.process)
	f.started()
	stop := make(chan struct{})
	defer close(stop)
	wanted := wishes(ctx, f.io, stop)
	process := taskProcess{Process: f.process, t: t, ctx: background}
	for {
		select {
		case status := <-ended:
			return f.result(ctx, status)
		case wish := <-wanted:
			wish(process)
		}
	}
}

// taskProcess is a process of containerd's that runs. What is done to it may fail, as
// it may have just ended.
type taskProcess struct {
	client.Process
	t   *tasks
	ctx context.Context
}

// end implements steered.
func (p taskProcess) end() { p.send(unix.SIGKILL) }

// resize implements steered.
func (p taskProcess) resize(size WinSize) { p.Resize(p.ctx, size.Cols, size.Rows) } //nolint:errcheck // see above

// send implements steered.
func (p taskProcess) send(sig syscall.Signal) {
	ctx, cancel := p.t.aside(p.ctx)
	defer cancel()
	_, first := p.Process.(client.Task)
	if pid := int(p.Pid()); !first && pid > 1 && sig == unix.SIGKILL && strings.HasPrefix(p.t.shim.Runtime, "io.containerd.runc.") {
		// What the process has started is not in a namespace of its own; here the
		// ids are those of the host.
		unix.Kill(-pid, sig) //nolint:errcheck // see above
	}
	p.Kill(ctx, sig) //nolint:errcheck // see above
}

// start starts a process that was made.
func (t *tasks) start(ctx context.Context, f following) error {
	ctx, cancel := t.starting(ctx)
	defer cancel()
	if err := f.process.Start(ctx); err != nil {
		return &StartError{Command: f.name, Reason: reason(err)}
	}
	return nil
}

func (f following) result(ctx context.Context, status client.ExitStatus) error {
	switch code, _, err := status.Result(); {
	case ctx.Err() != nil:
		return fmt.Errorf("run %q: killed: %w", f.name, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("run %q: %w", f.name, err)
	case code != 0:
		return &ExitError{Code: int(code)}
	}
	return nil
}

// remove implements engine.
func (t *tasks) remove(ctx context.Context, id, cgroup string) error {
	ctx, cancel := t.aside(ctx)
	defer cancel()
	container, err := t.client.LoadContainer(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	task, err := container.Task(ctx, nil)
	if err == nil {
		_, err = task.Delete(ctx, client.WithProcessKill)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove task %s: %w", id, err)
	}
	if err := container.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if cgroup == "" {
		return nil
	}
	return removeCgroup(ctx, cgroup)
}

// reason is a runtime's message without containerd's preamble.
func reason(err error) string {
	text := err.Error()
	for _, preamble := range []string{
		"failed to create shim task: ", "OCI runtime create failed: ", "OCI runtime exec failed: ", "runc create failed: ",
		"exec failed: ", "unable to start container process: ", "error during container init: ",
	} {
		if _, after, ok := strings.Cut(text, preamble); ok {
			text = after
		}
	}
	return text
}

// taskStreams connect an IO with a process of containerd's.
type taskStreams struct {
	io    IO
	stdin *io.PipeReader
	fill  *io.PipeWriter
}

func newTaskStreams(streams IO) *taskStreams {
	s := &taskStreams{io: streams}
	if streams.Stdin != nil {
		s.stdin, s.fill = io.Pipe()
	}
	return s
}

// options are for pipes in a directory.
func (s *taskStreams) options(dir string, terminal bool) []cio.Opt {
	var stdin io.Reader
	if s.stdin != nil {
		stdin = s.stdin
	}
	opts := []cio.Opt{cio.WithFIFODir(dir), cio.WithStreams(stdin, lenient(s.io.Stdout), lenient(s.io.Stderr))}
	if terminal {
		opts = append(opts, cio.WithTerminal)
	}
	return opts
}

// lenient goes on when its writer fails: a process is not stopped by its log's
// reader.
func lenient(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard // shims want either all outputs or none
	}
	return &lenientWriter{w: w}
}

type lenientWriter struct {
	w      io.Writer
	failed bool
}

func (l *lenientWriter) Write(p []byte) (int, error) {
	if !l.failed {
		_, err := l.w.Write(p)
		l.failed = err != nil
	}
	return len(p), nil
}

// feed gives the process what the caller has for it, and then closes its input.
func (s *taskStreams) feed(ctx context.Context, p client.Process) {
	if s.fill == nil {
		return
	}
	go func() {
		io.Copy(s.fill, s.io.Stdin)            //nolint:errcheck // an input that breaks off is one that ends
		s.fill.Close()                         //nolint:errcheck // never fails
		p.CloseIO(ctx, client.WithStdinCloser) //nolint:errcheck // it may have just ended
	}()
}

// end ends the input.
func (s *taskStreams) end() {
	if c, ok := s.io.Stdin.(io.Closer); ok {
		c.Close() //nolint:errcheck // it is not needed any more
	}
	if s.fill != nil {
		s.fill.Close() //nolint:errcheck // never fails
	}
}

// close waits until what the process wrote has been passed on, or a little longer
// than ctx.
func (s *taskStreams) close(ctx context.Context, p client.Process) {
	s.end() // or the process may wait for more
	if streams := p.IO(); streams != nil {
		awaitGrace(ctx, streams.Wait)
	}
	s.drop(p)
}

// drop ends the streams of a process that has ended, or never began.
func (s *taskStreams) drop(p client.Process) {
	if streams := p.IO(); streams != nil {
		streams.Cancel()
		streams.Close() //nolint:errcheck // nothing is lost: the other end is gone
	}
}
