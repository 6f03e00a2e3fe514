package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/sshforward"
	"google.golang.org/grpc/metadata"
)

// maxAgentConns bounds the connections to one agent that are open at a time;
// more have to wait.
const maxAgentConns = 64

// CheckSSH says whether the client has an agent of that id; "" is the default
// one. It fails with errdefs.ErrNotFound.
func (c *Client) CheckSSH(ctx context.Context, id string) error {
	id = agentID(id)
	if err := c.require(bksession.MethodURL(sshforward.SSH_ServiceDesc.ServiceName, "checkagent"), "ssh agents"); err != nil {
		return noAgent(id, err)
	}
	ctx, cancel := call(ctx)
	defer cancel()
	_, err := sshforward.NewSSHClient(c.cc).CheckAgent(ctx, &sshforward.CheckAgentRequest{ID: id})
	if err != nil {
		return noAgent(id, c.fail(err))
	}
	return nil
}

func noAgent(id string, err error) error {
	if errdefs.IsUnavailable(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("ssh agent %s: %w", id, err)
	}
	return fmt.Errorf("no SSH key %q forwarded from the client (give it to the build with --ssh %s): %w: %w", id, id, err, errdefs.ErrNotFound)
}

func agentID(id string) string {
	if id == "" {
		return sshforward.DefaultID
	}
	return id
}

// SSHOptions say which agent is offered and to whom.
type SSHOptions struct {
	// ID of the client's agent; "" is the default one.
	ID string
	// Dir is the directory that gets the socket; it belongs to the caller.
	Dir      string
	UID, GID int
	Mode     os.FileMode
}

// Agent is a socket behind which a client's ssh agent answers.
type Agent struct {
	// Path of the socket.
	Path string

	listener net.Listener
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

// ForwardSSH checks that the client has the agent and makes a socket that leads
// to it, until Close or the end of the session. It outlives ctx.
func (c *Client) ForwardSSH(ctx context.Context, o SSHOptions) (*Agent, error) {
	if err := c.CheckSSH(ctx, o.ID); err != nil {
		return nil, err
	}
	a := &Agent{Path: filepath.Join(o.Dir, "ssh_auth_sock")}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", a.Path)
	if err != nil {
		return nil, fmt.Errorf("socket for ssh agent %s: %w", agentID(o.ID), err)
	}
	if err := errors.Join(os.Chown(a.Path, o.UID, o.GID), os.Chmod(a.Path, o.Mode)); err != nil {
		l.Close()
		return nil, fmt.Errorf("socket for ssh agent %s: %w", agentID(o.ID), err)
	}
	a.listener = l
	fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(c.ctx, cancel)
	a.cancel = func() { stop(); cancel() }
	a.wg.Go(func() { a.serve(fctx, c, agentID(o.ID)) })
	return a, nil
}

func (a *Agent) serve(ctx context.Context, c *Client, id string) {
	slots := make(chan struct{}, maxAgentConns)
	for {
		conn, err := a.listener.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			conn.Close()
			return
		}
		a.wg.Go(func() {
			defer func() { <-slots }()
			forward(ctx, c, id, conn)
		})
	}
}

// forward carries one connection. That it breaks is the agent's users' matter.
func forward(ctx context.Context, c *Client, id string, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(outgoing(ctx, metadata.MD{sshforward.KeySSHID: {id}}))
	defer cancel()
	stream, err := sshforward.NewSSHClient(c.cc).ForwardAgent(ctx)
	if err != nil {
		return
	}
	_ = sshforward.Copy(ctx, conn, stream, stream.CloseSend)
}

// Close ends all connections and removes the socket.
func (a *Agent) Close() error {
	a.cancel()
	err := a.listener.Close()
	a.wg.Wait()
	return err
}
