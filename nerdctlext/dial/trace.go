package dial

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

func withTrace(ctx context.Context, headers map[string]string) context.Context {
	for name, value := range headers {
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	return ctx
}

func traceUnary(headers map[string]string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoke(withTrace(ctx, headers), method, req, reply, conn, opts...)
	}
}

func traceStream(headers map[string]string) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return stream(withTrace(ctx, headers), desc, conn, method, opts...)
	}
}
