// Package bridge serves BuildKit's LLBBridge API: the builder as frontends and
// clients that drive their builds see it, on the wire.
package bridge

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/frontend"
	"github.com/kiln-build/kiln/builder/graph"
	apitypes "github.com/moby/buildkit/api/types"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Find gives the build that a call is about.
type Find func(ctx context.Context) (*frontend.Bridge, error)

// Server implements the LLBBridge service.
type Server struct {
	gwpb.UnimplementedLLBBridgeServer
	find Find
}

// New makes a server of the builds that find finds.
func New(find Find) *Server { return &Server{find: find} }

// Register adds the server's service.
func (s *Server) Register(to grpc.ServiceRegistrar) { gwpb.RegisterLLBBridgeServer(to, s) }

// refHeader is where clients of the daemon say which build they mean.
const refHeader = "buildkit-controlapi-buildid"

// ByRef finds the build whose ref is in the header of the call. lookup waits
// for a build that is about to begin, and fails with errdefs.ErrNotFound.
func ByRef(lookup func(ctx context.Context, ref string) (*frontend.Bridge, error)) Find {
	return func(ctx context.Context) (*frontend.Bridge, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		refs := md.Get(refHeader)
		if len(refs) != 1 || refs[0] == "" {
			return nil, errors.New("no buildid found in context")
		}
		b, err := lookup(ctx, refs[0])
		if errdefs.IsNotFound(err) {
			return nil, solvererrors.NewUnknownJobError(refs[0])
		}
		return b, err
	}
}

// Ping says what the builder can do. It waits for the build to begin.
func (s *Server) Ping(ctx context.Context, _ *gwpb.PingRequest) (*gwpb.PongResponse, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	resp := &gwpb.PongResponse{FrontendAPICaps: frontend.Caps(), LLBCaps: graph.Caps()}
	for _, w := range b.Workers() {
		resp.Workers = append(resp.Workers, &apitypes.WorkerRecord{ID: w.ID, Labels: w.Labels, Platforms: pb.PlatformsFromSpec(w.Platforms)})
	}
	return resp, nil
}

// Inputs gives the definitions that came with the build's request.
func (s *Server) Inputs(ctx context.Context, _ *gwpb.InputsRequest) (*gwpb.InputsResponse, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	return &gwpb.InputsResponse{Definitions: b.Inputs()}, nil
}

// Warn passes advice on to the author of the build.
func (s *Server) Warn(ctx context.Context, req *gwpb.WarnRequest) (*gwpb.WarnResponse, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range req.Ranges {
		if r == nil {
			return nil, status.Error(codes.InvalidArgument, "a warning has a range without lines")
		}
	}
	return &gwpb.WarnResponse{}, b.Warn(ctx, digest.Digest(req.Digest), string(req.Short), gwclient.WarnOpts{
		Level:      int(req.Level),
		SourceInfo: req.Info,
		Range:      req.Ranges,
		Detail:     req.Detail,
		URL:        req.Url,
	})
}
