package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	bksession "github.com/moby/buildkit/session"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The headers of a session's connection.
const (
	headerID               = "X-Docker-Expose-Session-Uuid"
	headerSharedKey        = "X-Docker-Expose-Session-Sharedkey"
	headerSharedKeyEncoded = "X-Docker-Expose-Session-Sharedkey-Encoded"
	headerMethod           = "X-Docker-Expose-Session-Grpc-Method"
)

const (
	// callTimeout bounds a call that is answered with one message.
	callTimeout = 60 * time.Second
	// maxMessage bounds a message from the client.
	maxMessage = 16 << 20
	// maxMethods bounds what a client may say it offers.
	maxMethods = 10_000
)

// Client is one session. It is safe for concurrent use. Calls fail with
// errdefs.ErrUnavailable once the session is gone and with
// errdefs.ErrNotImplemented where the client doesn't offer the service.
type Client struct {
	id        string
	sharedKey string
	methods   map[string]struct{}
	conn      net.Conn
	cc        *grpc.ClientConn
	ctx       context.Context // ends with the session
	cancel    context.CancelCauseFunc
}

var _ bksession.Caller = (*Client)(nil)

var errHungUp = errors.New("the client closed the connection")

func newClient(ctx context.Context, conn net.Conn, h http.Header) (*Client, error) {
	c := &Client{id: h.Get(headerID), sharedKey: h.Get(headerSharedKey), methods: map[string]struct{}{}}
	if c.id == "" {
		return nil, fmt.Errorf("a session needs an id in header %s: %w", headerID, errdefs.ErrInvalidArgument)
	}
	if len(h[headerMethod]) > maxMethods {
		return nil, fmt.Errorf("session %s offers %d methods, more than %d: %w",
			c.id, len(h[headerMethod]), maxMethods, errdefs.ErrInvalidArgument)
	}
	for _, m := range h[headerMethod] {
		c.methods[strings.ToLower(m)] = struct{}{}
	}
	if enc, _ := strconv.ParseBool(h.Get(headerSharedKeyEncoded)); enc {
		if key, err := url.QueryUnescape(c.sharedKey); err == nil {
			c.sharedKey = key
		}
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.conn = &watchedConn{Conn: conn, closed: func() { c.cancel(errHungUp) }}
	cc, err := clientConn(c.conn)
	if err != nil {
		c.cancel(err)
		return nil, fmt.Errorf("session %s: %w", c.id, err)
	}
	c.cc = cc
	return c, nil
}

// clientConn is a gRPC client on a connection that can't be dialled again.
func clientConn(conn net.Conn) (*grpc.ClientConn, error) {
	var dialled atomic.Bool
	cc, err := grpc.NewClient("passthrough:///session",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if dialled.Swap(true) {
				return nil, errHungUp
			}
			return conn, nil
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithPropagators(
			propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})))),
	)
	if err != nil {
		return nil, err
	}
	cc.Connect()
	return cc, nil
}

// watchedConn tells when gRPC gives the connection up. Closing the connection
// of a hijacked stream can wait for the peer, so it happens on the side.
type watchedConn struct {
	net.Conn
	once   sync.Once
	closed func()
}

func (w *watchedConn) Close() error {
	w.once.Do(func() {
		w.closed()
		go w.Conn.Close()
	})
	return nil
}

func (c *Client) close(cause error) {
	c.cancel(cause)
	c.cc.Close()
	c.conn.Close() // gRPC may not have got to it
}

// ID is the id that the client chose.
func (c *Client) ID() string { return c.id }

// SharedKey is the same for sessions of one client about one directory.
func (c *Client) SharedKey() string { return c.sharedKey }

// Done is closed when the session has ended.
func (c *Client) Done() <-chan struct{} { return c.ctx.Done() }

// OnDone calls f, on a goroutine of its own, when the session has ended.
func (c *Client) OnDone(f func()) (stop func() bool) { return context.AfterFunc(c.ctx, f) }

// Conn is for services that have no method here.
func (c *Client) Conn() *grpc.ClientConn { return c.cc }

// Context returns ctx: calls end with the connection anyway.
func (c *Client) Context(ctx context.Context) context.Context { return ctx }

// Supports says whether the client offers a method ("/package.Service/Method").
func (c *Client) Supports(method string) bool {
	_, ok := c.methods[strings.ToLower(method)]
	return ok
}

func (c *Client) require(method, what string) error {
	if !c.Supports(method) {
		return fmt.Errorf("the client doesn't offer %s (%s): %w", what, method, errdefs.ErrNotImplemented)
	}
	return nil
}

// fail makes what a call returned readable: an errdefs error, or that the
// session is gone.
func (c *Client) fail(err error) error {
	if err == nil {
		return nil
	}
	if c.ctx.Err() != nil {
		return fmt.Errorf("session %s was lost (%w): %w", c.id, context.Cause(c.ctx), errdefs.ErrUnavailable)
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	if st.Code() == codes.Unknown {
		return errors.New(clean(st.Message()))
	}
	return errgrpc.ToNative(status.Error(st.Code(), clean(st.Message())))
}

// clean removes what gRPC has put before the message on the client's side.
func clean(msg string) string {
	for strings.HasPrefix(msg, "rpc error: code = ") {
		_, desc, ok := strings.Cut(msg, " desc = ")
		if !ok {
			break
		}
		msg = desc
	}
	return msg
}

// outgoing replaces the metadata of ctx: what was meant for other servers is
// none of the client's business.
func outgoing(ctx context.Context, md metadata.MD) context.Context {
	return metadata.NewOutgoingContext(ctx, md)
}

// call gives a context for a unary call.
func call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(outgoing(ctx, nil), callTimeout)
}
