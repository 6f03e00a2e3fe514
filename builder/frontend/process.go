package frontend

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/kiln-build/kiln/builder/op"
	"github.com/kiln-build/kiln/builder/sandbox"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
)

// process is a process of a container.
type process struct {
	resize  chan sandbox.WinSize
	signals chan syscall.Signal
	done    chan struct{}
	err     error // valid once done
}

// Start starts a process; whether it could be started is for Wait to say. Start
// waits until the container's first process runs, and no longer: who connects
// processes with each other has to have all of them before it can read from one.
// The process is killed when ctx ends or the container is released.
func (c *Container) Start(ctx context.Context, req gwclient.StartRequest) (gwclient.ContainerProcess, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	p := &process{resize: make(chan sandbox.WinSize), signals: make(chan syscall.Signal), done: make(chan struct{})}
	go func() {
		defer c.users.Done()
		defer close(p.done)
		p.err = c.run(ctx, req, p)
	}()
	select {
	case <-c.op.Up():
	case <-p.done:
	}
	return p, nil
}

// run runs a process to its end. Its error has the exit code (gwpb.ExitError).
func (c *Container) run(ctx context.Context, req gwclient.StartRequest, p *process) error {
	exec := &pb.ExecOp{Network: c.net, Security: req.SecurityMode}
	if err := c.b.cfg.Check(&pb.Op{Op: &pb.Op_Exec{Exec: exec}}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.ctx, func() { cancel(context.Cause(c.ctx)) })()
	err := c.op.Run(ctx, op.Process{
		Args: req.Args, Env: req.Env, SecretEnv: req.SecretEnv, User: req.User, Cwd: req.Cwd,
		Terminal: req.Tty, Security: req.SecurityMode, RemoveStubsRecursive: req.RemoveMountStubsRecursive,
	}, p.io(req))
	if err == nil {
		return nil
	}
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		err = &gwpb.ExitError{ExitCode: uint32(exit.Code), Err: err}
	}
	if cause := context.Cause(ctx); cause != nil {
		// Whether it was killed, or has seen others die, is a matter of chance.
		if !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	if c.ctx.Err() != nil {
		c.mu.Lock()
		c.stopped = err
		c.mu.Unlock()
	}
	return err
}

// io is what the process is connected to. Nil interfaces stay nil.
func (p *process) io(req gwclient.StartRequest) sandbox.IO {
	io := sandbox.IO{Resize: p.resize, Signal: p.signals}
	if req.Stdin != nil {
		io.Stdin = req.Stdin
	}
	if req.Stdout != nil {
		io.Stdout = req.Stdout
	}
	if req.Stderr != nil {
		io.Stderr = req.Stderr
	}
	return io
}

// Wait waits for the process to end and for all of its output to be passed on.
// Its error is a *gwpb.ExitError if the process had another exit code than 0.
func (p *process) Wait() error {
	<-p.done
	return p.err
}

// Resize sets the size of the process's terminal.
func (p *process) Resize(ctx context.Context, size gwclient.WinSize) error {
	return deliver(ctx, p, p.resize, sandbox.WinSize{Rows: size.Rows, Cols: size.Cols})
}

// Signal sends a signal to the process. It is lost if the process has ended.
func (p *process) Signal(ctx context.Context, sig syscall.Signal) error {
	return deliver(ctx, p, p.signals, sig)
}

func deliver[T any](ctx context.Context, p *process, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
