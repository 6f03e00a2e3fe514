package plugin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{errors.New("x"), codes.Unknown},
		{fmt.Errorf("x: %w", errdefs.ErrNotFound), codes.NotFound},
		{fmt.Errorf("x: %w", errdefs.ErrAlreadyExists), codes.AlreadyExists},
		{fmt.Errorf("x: %w", errdefs.ErrInvalidArgument), codes.InvalidArgument},
		{fmt.Errorf("x: %w", errdefs.ErrNotImplemented), codes.Unimplemented},
		{fmt.Errorf("x: %w", errdefs.ErrUnavailable), codes.Unavailable},
		{fmt.Errorf("x: %w", context.Canceled), codes.Canceled},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{fmt.Errorf("x: %w", status.Error(codes.Internal, "y")), codes.Internal},
		{grpcerrors.WrapCode(fmt.Errorf("x: %w", errdefs.ErrNotFound), codes.Unknown), codes.Unknown},
		{solvererrors.NewUnknownJobError("r"), codes.NotFound},
	} {
		wire := toWire(t.Context(), c.err)
		if got := status.Code(wire); got != c.want {
			t.Errorf("%v: code %v, want %v", c.err, got, c.want)
		}
		if !strings.Contains(status.Convert(wire).Message(), c.err.Error()) && !strings.Contains(c.err.Error(), "desc = y") {
			t.Errorf("%v: message %q", c.err, status.Convert(wire).Message())
		}
	}
}

func TestDetailsCrossTheWire(t *testing.T) {
	t.Parallel()
	step := digest.FromString("step")
	err := solvererrors.WrapVertex(fmt.Errorf("x: %w", errdefs.ErrNotFound), step)
	got := grpcerrors.FromGRPC(toWire(t.Context(), err))
	var vertex *solvererrors.VertexError
	if !errors.As(got, &vertex) || vertex.Digest != step.String() || status.Code(got) != codes.NotFound {
		t.Errorf("%#v", got)
	}
}

func TestPanicsBecomeErrors(t *testing.T) {
	t.Parallel()
	info := &grpc.UnaryServerInfo{FullMethod: "/x/Y"}
	_, err := unary(t.Context(), nil, info, func(context.Context, any) (any, error) { panic("oops") })
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "oops") {
		t.Errorf("error %v", err)
	}
}
