package daemontest

import (
	"context"

	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
)

// bridge is the part of the daemon that computes results. Both APIs have a method Solve,
// so one type cannot be both.
type bridge struct {
	gatewaypb.UnimplementedLLBBridgeServer
	daemon *Daemon
}

// Ping names the capabilities of a daemon of today.
func (b bridge) Ping(ctx context.Context, _ *gatewaypb.PingRequest) (*gatewaypb.PongResponse, error) {
	if _, err := b.daemon.bridged(ctx); err != nil {
		return nil, err
	}
	return &gatewaypb.PongResponse{FrontendAPICaps: gatewaypb.Caps.All(), LLBCaps: pb.Caps.All()}, nil
}

func (b bridge) Solve(ctx context.Context, request *gatewaypb.SolveRequest) (*gatewaypb.SolveResponse, error) {
	build, err := b.daemon.bridged(ctx)
	if err != nil {
		return nil, err
	}
	result := &gatewaypb.Result{Result: &gatewaypb.Result_Ref{Ref: &gatewaypb.Ref{}}}
	if b.daemon.Compute != nil {
		client, err := b.daemon.client(ctx, build.request.Session)
		if err != nil {
			return nil, err
		}
		if result, err = b.daemon.Compute(ctx, client, request); err != nil {
			return nil, err
		}
	}
	return &gatewaypb.SolveResponse{Result: result}, nil
}

func (b bridge) Return(ctx context.Context, request *gatewaypb.ReturnRequest) (*gatewaypb.ReturnResponse, error) {
	build, err := b.daemon.bridged(ctx)
	if err != nil {
		return nil, err
	}
	build.returned <- request
	return &gatewaypb.ReturnResponse{}, nil
}

// Info says a version.
func (d *Daemon) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{BuildkitVersion: &apitypes.BuildkitVersion{
		Package: "example.com/daemon", Version: "v1.2.3", Revision: "abc", DockerfileVersion: "1.9.0",
	}}, nil
}

// ListWorkers returns Workers.
func (d *Daemon) ListWorkers(context.Context, *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	return &controlapi.ListWorkersResponse{Record: d.Workers}, nil
}

// DiskUsage returns Usage.
func (d *Daemon) DiskUsage(context.Context, *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error) {
	return &controlapi.DiskUsageResponse{Record: d.Usage}, nil
}

// Prune notes the request and streams Usage.
func (d *Daemon) Prune(request *controlapi.PruneRequest, stream controlapi.Control_PruneServer) error {
	d.mu.Lock()
	d.Pruned = append(d.Pruned, request)
	d.mu.Unlock()
	for _, record := range d.Usage {
		if err := stream.Send(record); err != nil {
			return err
		}
	}
	return nil
}

// ListenBuildHistory streams History.
func (d *Daemon) ListenBuildHistory(request *controlapi.BuildHistoryRequest, stream controlapi.Control_ListenBuildHistoryServer) error {
	for _, event := range d.History {
		if request.Ref != "" && event.Record.GetRef() != request.Ref {
			continue
		}
		if err := stream.Send(event); err != nil {
			return err
		}
	}
	return nil
}

// UpdateBuildHistory notes the request.
func (d *Daemon) UpdateBuildHistory(_ context.Context, request *controlapi.UpdateBuildHistoryRequest) (*controlapi.UpdateBuildHistoryResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Updated = append(d.Updated, request)
	return &controlapi.UpdateBuildHistoryResponse{}, nil
}
