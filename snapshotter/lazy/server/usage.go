package server

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// usage counts who is connected.
type usage struct{ n atomic.Int64 }

func (u *usage) connections() int64 { return u.n.Load() }

// TagRPC is part of a stats.Handler.
func (u *usage) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC is part of a stats.Handler.
func (u *usage) HandleRPC(context.Context, stats.RPCStats) {}

// TagConn is part of a stats.Handler.
func (u *usage) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn is part of a stats.Handler.
func (u *usage) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		u.n.Add(1)
	case *stats.ConnEnd:
		u.n.Add(-1)
	}
}
