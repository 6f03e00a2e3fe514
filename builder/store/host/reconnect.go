package host

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// reconnectWait is how long calls wait for a containerd that is being restarted.
const reconnectWait = 5 * time.Second

// patience lets calls wait for the connection. After one has waited in vain
// others don't for a while, so that work which is cleaned up after a containerd
// that is gone for good ends.
type patience struct {
	mu      sync.Mutex
	givenUp time.Time
}

// options are how a connection is made patient.
func (p *patience) options() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any,
			conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption,
		) error {
			p.wait(ctx, conn)
			return call(ctx, method, req, reply, conn, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn,
			method string, open grpc.Streamer, opts ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			p.wait(ctx, conn)
			return open(ctx, desc, conn, method, opts...)
		}),
	}
}

// wait returns when there is a connection, or it was waited for in vain: then
// the call says why there is none.
func (p *patience) wait(ctx context.Context, conn *grpc.ClientConn) {
	if conn.GetState() == connectivity.Ready {
		return
	}
	p.mu.Lock()
	hopeless := time.Since(p.givenUp) < 2*reconnectWait
	p.mu.Unlock()
	limit := reconnectWait
	if hopeless {
		limit = reconnectWait / 50 // one attempt
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for ctx.Err() == nil {
		switch state := conn.GetState(); state {
		case connectivity.Ready:
			return
		case connectivity.TransientFailure:
			conn.ResetConnectBackoff()
			pause(ctx, 20*time.Millisecond)
		default:
			conn.Connect()
			conn.WaitForStateChange(ctx, state)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.givenUp = time.Now()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
