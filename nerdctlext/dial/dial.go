// Package dial turns the address of a daemon into a gRPC connection.
//
// unix and tcp are dialled here. The other schemes start a command whose standard
// streams are the connection: a buildctl inside a container, a pod or another host
// that runs dial-stdio. See Stdio for that other end.
package dial

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// maxMessage is the largest message in bytes that either side of BuildKit's API sends.
const maxMessage = 16 << 20

// Options says where a daemon is and how it is to be trusted.
type Options struct {
	// Address is a URL such as unix:///run/kiln/kilnd.sock.
	Address string
	TLS     TLS
	// Timeout bounds one attempt to connect; 0 is no bound.
	Timeout time.Duration
	// Trace is the context of a trace to carry along (traceparent, tracestate,
	// baggage); it may be nil.
	Trace map[string]string
}

type dialer func(ctx context.Context, target string) (net.Conn, error)

// Dial prepares a connection, which the caller closes. Nothing is sent before the
// first call, so a daemon that is not there shows as codes.Unavailable then.
func Dial(options Options) (*grpc.ClientConn, error) {
	address, err := url.Parse(options.Address)
	if err != nil {
		return nil, fmt.Errorf("address of the daemon: %w", err)
	}
	open, err := transport(address)
	if err != nil {
		return nil, fmt.Errorf("address %q of the daemon: %w", options.Address, err)
	}
	trust := insecure.NewCredentials()
	if options.TLS.wanted() {
		if trust, err = options.TLS.credentials(address.Hostname()); err != nil {
			return nil, err
		}
	}
	authority := options.TLS.ServerName
	if authority == "" {
		authority = address.Host
	}
	if strings.HasPrefix(authority, "-") || authority == "" {
		authority = "localhost"
	}
	return grpc.NewClient("passthrough:///"+options.Address,
		grpc.WithContextDialer(bounded(open, options.Timeout)),
		grpc.WithTransportCredentials(trust),
		grpc.WithAuthority(authority),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithChainUnaryInterceptor(traceUnary(options.Trace), grpcerrors.UnaryClientInterceptor),
		grpc.WithChainStreamInterceptor(traceStream(options.Trace), grpcerrors.StreamClientInterceptor),
	)
}

func transport(address *url.URL) (dialer, error) {
	switch address.Scheme {
	case "unix":
		path := address.Path
		if path == "" {
			return nil, fmt.Errorf("no path of a socket: write unix:///path/to.sock")
		}
		return network("unix", path), nil
	case "tcp":
		if address.Port() == "" {
			return nil, fmt.Errorf("no port: write tcp://host:port")
		}
		return network("tcp", address.Host), nil
	}
	argv, err := helper(address)
	if err != nil {
		return nil, err
	}
	return command(argv), nil
}

func network(kind, target string) dialer {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, kind, target)
	}
}

func bounded(open dialer, limit time.Duration) dialer {
	if limit <= 0 {
		return open
	}
	return func(ctx context.Context, target string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return open(ctx, target)
	}
}

// Wait returns when the daemon answers, asking once a second, or with ctx's cause.
func Wait(ctx context.Context, conn *grpc.ClientConn) error {
	control := controlapi.NewControlClient(conn)
	for {
		_, err := control.Info(ctx, &controlapi.InfoRequest{})
		switch grpcerrors.Code(err) {
		case codes.OK, codes.Unimplemented:
			return nil
		case codes.Unavailable:
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the daemon: %w (last answer: %w)", context.Cause(ctx), err)
		case <-time.After(time.Second):
			conn.ResetConnectBackoff()
		}
	}
}
