package snapshotter

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// How long containerd waits at most. The collector waits in Cleanup for
// directories that may hold millions of files; that they aren't gone in time
// stops nobody from removing them.
const (
	callTimeout    = 2 * time.Minute
	cleanupTimeout = 10 * time.Minute
)

// NewServer serves the snapshots API of containerd's proxy plugins. No call
// takes longer than its deadline, whatever hangs below.
func NewServer(s *Snapshotter, opts ...grpc.ServerOption) *grpc.Server {
	opts = append(opts, grpc.ChainUnaryInterceptor(bounded), grpc.ChainStreamInterceptor(recovered))
	srv := grpc.NewServer(opts...)
	api.RegisterSnapshotsServer(srv, snapshotservice.FromSnapshotter(s))
	return srv
}

// bounded answers in time, and answers a panic with an error.
func bounded(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	limit := callTimeout
	if info.FullMethod == "/containerd.services.snapshots.v1.Snapshots/Cleanup" {
		limit = cleanupTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	type answer struct {
		resp any
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		defer cancel()
		var a answer
		defer func() { done <- a }()
		defer catch(ctx, info.FullMethod, &a.err)
		a.resp, a.err = handler(ctx, req)
	}()
	select {
	case a := <-done:
		return a.resp, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-done:
		return a.resp, a.err
	case <-time.After(time.Second): // it knows that the time is over
		return nil, status.Errorf(codes.DeadlineExceeded, "%s didn't end within %s; a filesystem below the snapshotter's root hangs", info.FullMethod, limit)
	}
}

func recovered(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer catch(stream.Context(), info.FullMethod, &err)
	return handler(srv, stream)
}

func catch(ctx context.Context, method string, err *error) {
	if p := recover(); p != nil {
		log.G(ctx).Errorf("panic in %s: %v\n%s", method, p, debug.Stack())
		*err = status.Error(codes.Internal, fmt.Sprintf("%s: internal error, the daemon's log has more", method))
	}
}
