package bridge

import (
	"context"
	"errors"
	"sync"

	"github.com/containerd/errdefs/pkg/errgrpc"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/sys/signal"
	"google.golang.org/grpc/status"
)

// process is one process as its client sees it: Started, its output and the end
// of that, Exit, Done.
type process struct {
	x       *execs
	id      string
	stdin   *input                 // nil: none
	control chan *gwpb.ExecMessage // signals and sizes, for when it runs
	done    chan struct{}          // closed when it has ended
	outputs []*output
	begun   sync.Once
}

// begin tells the client that the process runs, which comes first of all.
func (p *process) begin() {
	p.begun.Do(func() {
		// An error ends the stream, and that the process.
		_ = p.x.send(p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Started{Started: &gwpb.StartedMessage{}}})
	})
}

// run runs the process. Whatever goes wrong with it is told as its end, so that
// the other processes of the stream go on.
func (p *process) run(container string, req gwclient.StartRequest) {
	err := p.runIn(container, req)
	close(p.done)
	if p.stdin != nil {
		p.stdin.Close()
	}
	p.begin()
	for _, o := range p.outputs {
		_ = o.send(nil, true)
	}
	_ = p.x.send(p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Exit{Exit: exit(p.x.ctx, err)}})
	_ = p.x.send(p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Done{Done: &gwpb.DoneMessage{}}})
}

func (p *process) runIn(container string, req gwclient.StartRequest) error {
	c, err := p.x.b.Container(container)
	if err != nil {
		return err
	}
	running, err := c.Start(p.x.ctx, req)
	if err != nil {
		return err
	}
	p.begin()
	go p.obey(running)
	return running.Wait()
}

// obey does what the client says about the process while it runs.
func (p *process) obey(running gwclient.ContainerProcess) {
	for {
		select {
		case <-p.done:
			return
		case m := <-p.control:
			if r := m.GetResize(); r != nil {
				_ = running.Resize(p.x.ctx, gwclient.WinSize{Rows: r.Rows, Cols: r.Cols})
			}
			if s := m.GetSignal(); s != nil {
				if sig, err := signal.ParseSignal(s.Name); err == nil {
					_ = running.Signal(p.x.ctx, sig)
				}
			}
		}
	}
}

// receive takes a message of the client. It waits where the process is far
// behind with its input.
func (p *process) receive(ctx context.Context, m *gwpb.ExecMessage) {
	if f := m.GetFile(); f != nil {
		if f.Fd == 0 && p.stdin != nil {
			p.stdin.add(f.Data)
			if f.EOF {
				p.stdin.end()
			}
		}
		return
	}
	select {
	case p.control <- m:
	case <-p.done:
	case <-ctx.Done():
	}
}

// exit says how a process has ended.
func exit(ctx context.Context, err error) *gwpb.ExitMessage {
	if err == nil {
		return &gwpb.ExitMessage{}
	}
	code := uint32(gwpb.UnknownExitStatus)
	var coded *gwpb.ExitError
	if errors.As(err, &coded) {
		code = coded.ExitCode
	}
	err = grpcerrors.WrapCode(err, status.Code(errgrpc.ToGRPC(err)))
	st, _ := status.FromError(grpcerrors.ToGRPC(ctx, err))
	return &gwpb.ExitMessage{Code: code, Error: st.Proto()}
}

// output is a stream that a process writes to.
type output struct {
	p  *process
	fd uint32
}

func (p *process) output(fd uint32) *output {
	o := &output{p, fd}
	p.outputs = append(p.outputs, o)
	return o
}

// maxChunk bounds the output in one message, in bytes.
const maxChunk = 1 << 20

// Write sends what the process writes.
func (o *output) Write(data []byte) (n int, err error) {
	o.p.begin()
	for n < len(data) {
		chunk := data[n:min(len(data), n+maxChunk)]
		if err := o.send(chunk, false); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return n, nil
}

func (o *output) send(data []byte, eof bool) error {
	return o.p.x.send(o.p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: o.fd, Data: data, EOF: eof}}})
}

// Close does nothing: the end of the output is told when the process has ended.
func (o *output) Close() error { return nil }
