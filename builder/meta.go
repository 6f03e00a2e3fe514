package builder

import (
	"context"
	"maps"
	"strings"

	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/source"
	"github.com/kiln-build/kiln/builder/source/local"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// metaResolver answers frontends' questions about sources.
type metaResolver struct{ sources *source.Sources }

// ResolveMeta implements frontend.MetaResolver. A directory of the client is
// returned as it was asked for.
func (m metaResolver) ResolveMeta(ctx context.Context, job schedule.Job, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	if strings.HasPrefix(op.GetIdentifier(), local.Scheme+"://") {
		return &sourceresolver.MetaResponse{Op: op}, nil
	}
	req := metaRequest(op, opt)
	res, err := m.sources.ResolveMeta(ctx, job, req)
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{
		Op:    op,
		Image: &sourceresolver.ResolveImageResponse{Digest: res.Digest, Config: res.Config},
	}, nil
}

func metaRequest(op *pb.SourceOp, opt sourceresolver.Opt) source.MetaRequest {
	req := source.MetaRequest{Op: op}
	var p *ocispec.Platform
	if o := opt.ImageOpt; o != nil {
		p, req.ResolveMode, req.DigestOnly = o.Platform, o.ResolveMode, o.NoConfig
	}
	if o := opt.OCILayoutOpt; o != nil {
		p = o.Platform
		attrs := maps.Clone(op.Attrs)
		if attrs == nil {
			attrs = map[string]string{}
		}
		if o.Store.SessionID != "" {
			attrs[pb.AttrOCILayoutSessionID] = o.Store.SessionID
		}
		if o.Store.StoreID != "" {
			attrs[pb.AttrOCILayoutStoreID] = o.Store.StoreID
		}
		req.Op = &pb.SourceOp{Identifier: op.Identifier, Attrs: attrs}
	}
	if p != nil {
		req.Platform = pb.PlatformFromSpec(*p)
	}
	return req
}
