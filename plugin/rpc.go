package plugin

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/kiln-build/kiln/plugin/bridge"
	"github.com/kiln-build/kiln/plugin/control"
	"github.com/moby/buildkit/util/grpcerrors"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

// The largest messages in bytes. What BuildKit's clients take, and send unless told
// otherwise, is 16 MiB, which holds a definition of some 80,000 steps.
const (
	recvLimit = 64 << 20
	sendLimit = 16 << 20
)

// newServer makes the gRPC server with all services of the daemon.
func newServer(c *control.Server, b *bridge.Server, content contentapi.ContentServer, images imagesapi.ImagesServer) *grpc.Server {
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(recvLimit),
		grpc.MaxSendMsgSize(sendLimit),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(unary),
		grpc.StreamInterceptor(stream),
	)
	c.Register(s)
	b.Register(s)
	contentapi.RegisterContentServer(s, content)
	imagesapi.RegisterImagesServer(s, images)
	tracepb.RegisterTraceServiceServer(s, noTraces{})
	healthpb.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
	return s
}

func unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer edge(ctx, info.FullMethod, &err)
	return handler(ctx, req)
}

func stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer edge(s.Context(), info.FullMethod, &err)
	return handler(srv, s)
}

// edge is deferred around each call. It turns panics into errors, and errors
// into those of gRPC with all their details.
func edge(ctx context.Context, method string, err *error) {
	if p := recover(); p != nil {
		log.G(ctx).Errorf("%s: panic: %v\n%s", method, p, debug.Stack())
		*err = status.Errorf(codes.Internal, "internal error: %v", p)
	}
	if *err == nil {
		return
	}
	log.G(ctx).WithError(*err).Debugf("%s failed", method)
	*err = toWire(ctx, *err)
}

// toWire gives an error that has no code of gRPC the one that its kind, as
// containerd's errdefs have it, suggests.
func toWire(ctx context.Context, err error) error {
	if !hasCode(err) {
		if code := status.Code(errgrpc.ToGRPC(err)); code != codes.Unknown && code != codes.OK {
			err = grpcerrors.WrapCode(err, code)
		}
	}
	return grpcerrors.ToGRPC(ctx, err)
}

func hasCode(err error) bool {
	var coded interface{ Code() codes.Code }
	var withStatus interface{ GRPCStatus() *status.Status }
	return errors.As(err, &coded) || errors.As(err, &withStatus)
}

// noTraces is the trace service of a daemon without a collector.
type noTraces struct {
	tracepb.UnimplementedTraceServiceServer
}

func (noTraces) Export(context.Context, *tracepb.ExportTraceServiceRequest) (*tracepb.ExportTraceServiceResponse, error) {
	return nil, status.Error(codes.Unavailable, "this daemon has no collector for traces")
}
