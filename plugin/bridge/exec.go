package bridge

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/kiln-build/kiln/builder/frontend"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxProcesses bounds how many processes of one client run at a time.
const maxProcesses = 1000

// ExecProcess starts processes in containers and carries what they read and
// write. One stream serves all processes of a client; those that run when it
// ends are killed.
func (s *Server) ExecProcess(stream gwpb.LLBBridge_ExecProcessServer) error {
	b, err := s.find(stream.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	x := &execs{b: b, ctx: ctx, stream: stream, processes: map[string]*process{}}
	defer x.running.Wait()
	defer cancel()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			x.running.Wait() // the client has nothing more to say, but listens
			return nil
		}
		if err != nil {
			return err
		}
		if err := x.receive(m); err != nil {
			return err
		}
	}
}

// execs are the processes of one stream.
type execs struct {
	b       *frontend.Bridge
	ctx     context.Context
	running sync.WaitGroup

	sending sync.Mutex
	stream  gwpb.LLBBridge_ExecProcessServer

	mu        sync.Mutex
	processes map[string]*process
}

func (x *execs) send(id string, m *gwpb.ExecMessage) error {
	m.ProcessID = id
	x.sending.Lock()
	defer x.sending.Unlock()
	return x.stream.Send(m)
}

// receive passes a message on to its process. What comes for one that has ended
// was on its way; it is dropped.
func (x *execs) receive(m *gwpb.ExecMessage) error {
	if m.ProcessID == "" {
		return status.Error(codes.InvalidArgument, "a message about a process lacks its ProcessID")
	}
	if init := m.GetInit(); init != nil {
		return x.start(m.ProcessID, init)
	}
	x.mu.Lock()
	p := x.processes[m.ProcessID]
	x.mu.Unlock()
	if p != nil {
		p.receive(x.ctx, m)
	}
	return nil
}

func (x *execs) start(id string, init *gwpb.InitMessage) error {
	if init.Meta == nil {
		return status.Errorf(codes.InvalidArgument, "process %q: it is not said what to run", id)
	}
	p := &process{x: x, id: id, control: make(chan *gwpb.ExecMessage, 64), done: make(chan struct{})}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.processes[id] != nil {
		return status.Errorf(codes.AlreadyExists, "process %q runs already", id)
	}
	if len(x.processes) >= maxProcesses {
		return status.Errorf(codes.ResourceExhausted, "%d processes run already", maxProcesses)
	}
	x.processes[id] = p
	req := p.request(init)
	x.running.Go(func() {
		defer x.forget(id)
		p.run(init.ContainerID, req)
	})
	return nil
}

func (x *execs) forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.processes, id)
}

// request is what the client asks for, connected with the stream.
func (p *process) request(init *gwpb.InitMessage) gwclient.StartRequest {
	req := gwclient.StartRequest{
		Args: init.Meta.Args, Env: init.Meta.Env, SecretEnv: init.Secretenv, User: init.Meta.User, Cwd: init.Meta.Cwd,
		Tty: init.Tty, SecurityMode: init.Security, RemoveMountStubsRecursive: init.Meta.RemoveMountStubsRecursive,
	}
	if slices.Contains(init.Fds, 0) {
		p.stdin = newInput()
		req.Stdin = p.stdin
	}
	if slices.Contains(init.Fds, 1) {
		req.Stdout = p.output(1)
	}
	if slices.Contains(init.Fds, 2) {
		req.Stderr = p.output(2)
	}
	return req
}
