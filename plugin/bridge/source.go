package bridge

import (
	"context"
	"strings"

	"github.com/kiln-build/kiln/builder/frontend"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ResolveSourceMeta says what a source is.
func (s *Server) ResolveSourceMeta(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	if req.Source == nil {
		return nil, status.Error(codes.InvalidArgument, "there is no source to resolve")
	}
	resp, err := b.ResolveSourceMeta(ctx, req.Source, frontend.MetaOptions(req))
	if err != nil {
		return nil, ofBuild(err)
	}
	return frontend.MetaResponse(resp), nil
}

// ResolveImageConfig is what old clients have for ResolveSourceMeta.
func (s *Server) ResolveImageConfig(ctx context.Context, req *gwpb.ResolveImageConfigRequest) (*gwpb.ResolveImageConfigResponse, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	opt, platform := sourceresolver.Opt{LogName: req.LogName, SourcePolicies: req.SourcePolicies}, frontend.PlatformSpec(req.Platform)
	scheme := "docker-image://"
	if sourceresolver.ResolverType(req.ResolverType) == sourceresolver.ResolverTypeOCILayout {
		scheme = "oci-layout://"
		opt.OCILayoutOpt = &sourceresolver.ResolveOCILayoutOpt{
			Platform: platform,
			Store:    sourceresolver.ResolveImageConfigOptStore{SessionID: req.SessionID, StoreID: req.StoreID},
		}
	} else {
		opt.ImageOpt = &sourceresolver.ResolveImageOpt{Platform: platform, ResolveMode: req.ResolveMode}
	}
	resp, err := b.ResolveSourceMeta(ctx, &pb.SourceOp{Identifier: scheme + req.Ref}, opt)
	if err != nil {
		return nil, ofBuild(err)
	}
	if resp.Image == nil {
		return nil, status.Errorf(codes.Internal, "resolving %q gave no image", req.Ref)
	}
	out := &gwpb.ResolveImageConfigResponse{Ref: req.Ref, Digest: string(resp.Image.Digest), Config: resp.Image.Config}
	if resp.Op != nil {
		out.Ref = strings.TrimPrefix(resp.Op.Identifier, scheme)
	}
	return out, nil
}
