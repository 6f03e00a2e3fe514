package build

import (
	"context"
	"fmt"
	"time"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/metadata"
)

const (
	// buildIDHeader tells the daemon which build a call of the bridge belongs to.
	buildIDHeader = "buildkit-controlapi-buildid"
	// pingLimit is the daemon's time to register the build.
	pingLimit = 15 * time.Second
)

// drive computes a build's result inside the daemon and hands it over for export. An
// error is handed over too, so that the daemon records it. It returns the result's
// metadata.
func drive(ctx context.Context, bridge gatewaypb.LLBBridgeClient, ref string, request *gatewaypb.SolveRequest) (map[string][]byte, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, buildIDHeader, ref)
	if err := greet(ctx, bridge); err != nil {
		return nil, err
	}
	response, err := bridge.Solve(ctx, request)
	answer := &gatewaypb.ReturnRequest{Result: response.GetResult()}
	if err != nil {
		status, _ := grpcerrors.AsGRPCStatus(grpcerrors.ToGRPC(ctx, err))
		answer = &gatewaypb.ReturnRequest{Error: status.Proto()}
	} else if answer.Result == nil {
		answer.Result = &gatewaypb.Result{}
	}
	if _, returnErr := bridge.Return(ctx, answer); err == nil && returnErr != nil {
		err = fmt.Errorf("handing over the result: %w", returnErr)
	}
	return response.GetResult().GetMetadata(), err
}

// greet waits until the daemon knows the build, and sees that it can take a result in
// the form in which it is returned here.
func greet(ctx context.Context, bridge gatewaypb.LLBBridgeClient) error {
	limited, cancel := context.WithTimeout(ctx, pingLimit)
	defer cancel()
	pong, err := bridge.Ping(limited, &gatewaypb.PingRequest{})
	if err != nil {
		return err
	}
	caps := gatewaypb.Caps.CapSet(pong.GetFrontendAPICaps())
	for _, needed := range []apicaps.CapID{gatewaypb.CapReturnResult, gatewaypb.CapProtoRefArray} {
		if err := caps.Supports(needed); err != nil {
			return fmt.Errorf("the daemon is too old for this client: %w", err)
		}
	}
	return nil
}
