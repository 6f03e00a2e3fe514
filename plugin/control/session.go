package control

import (
	"io"
	"net"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/metadata"
)

// Session implements the Control service: the stream is a connection on which
// the client is the server.
func (s *Server) Session(stream controlapi.Control_SessionServer) error {
	ctx, end := s.withServer(stream.Context())
	defer end()
	headers, _ := metadata.FromIncomingContext(ctx)
	conn := newStreamConn(stream)
	defer conn.Close()
	return s.cfg.Sessions.Serve(ctx, conn, headers)
}

// streamConn is a stream of bytes as a connection. Close ends it at once on this
// side, also when the client hangs; the client is told when the call returns.
type streamConn struct {
	stream   controlapi.Control_SessionServer
	received chan []byte
	failure  error // why received was closed
	closed   chan struct{}
	once     sync.Once

	readMu sync.Mutex
	rest   []byte // of the last message

	writeMu sync.Mutex
}

func newStreamConn(stream controlapi.Control_SessionServer) *streamConn {
	c := &streamConn{stream: stream, received: make(chan []byte), closed: make(chan struct{})}
	go c.receive()
	return c
}

// receive ends with the call at the latest.
func (c *streamConn) receive() {
	defer close(c.received)
	for {
		m, err := c.stream.Recv()
		if err != nil {
			c.failure = err
			return
		}
		select {
		case c.received <- m.Data:
		case <-c.closed:
			c.failure = net.ErrClosed
			return
		}
	}
}

func (c *streamConn) Read(b []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for len(c.rest) == 0 {
		select {
		case data, ok := <-c.received:
			if !ok {
				return 0, c.failure
			}
			c.rest = data
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *streamConn) Write(b []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	select {
	case <-c.closed:
		return 0, io.ErrClosedPipe
	default:
	}
	if err := c.stream.Send(&controlapi.BytesMessage{Data: b}); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *streamConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// streamAddr is the address of both ends.
type streamAddr struct{}

func (streamAddr) Network() string { return "grpc" }
func (streamAddr) String() string  { return "session" }

func (*streamConn) LocalAddr() net.Addr  { return streamAddr{} }
func (*streamConn) RemoteAddr() net.Addr { return streamAddr{} }

// The stream has no deadlines; it ends with its context.
func (*streamConn) SetDeadline(time.Time) error      { return nil }
func (*streamConn) SetReadDeadline(time.Time) error  { return nil }
func (*streamConn) SetWriteDeadline(time.Time) error { return nil }
