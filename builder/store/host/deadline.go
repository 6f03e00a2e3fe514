package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
)

// How long containerd may take to answer. Streams end with their callers'
// contexts; the calls that list are streams too.
const (
	callTimeout = 2 * time.Minute
	// Unpacking and comparing take as long as the layer is large, and a
	// deletion may wait for the removal of whatever has become garbage.
	workTimeout = time.Hour
)

var workMethods = map[string]bool{
	"/containerd.services.diff.v1.Diff/Apply":             true,
	"/containerd.services.diff.v1.Diff/Diff":              true,
	"/containerd.services.leases.v1.Leases/Delete":        true,
	"/containerd.services.images.v1.Images/Delete":        true,
	"/containerd.services.snapshots.v1.Snapshots/Cleanup": true,
}

// deadlines gives every call a deadline, so that a containerd that hangs
// doesn't hang whoever uses it.
func deadlines() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any,
		conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		limit := callTimeout
		if workMethods[method] {
			limit = workTimeout
		}
		late := fmt.Errorf("containerd didn't answer %s within %s: %w", method, limit, context.DeadlineExceeded)
		ctx, cancel := context.WithTimeoutCause(ctx, limit, late)
		defer cancel()
		err := call(ctx, method, req, reply, conn, opts...)
		if err != nil && errors.Is(context.Cause(ctx), late) {
			return late
		}
		return err
	})
}
