package bridge

import (
	"context"
	"strings"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
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
	if err := checkPolicies(req.SourcePolicies); err != nil {
		return nil, err
	}
	resp, err := b.ResolveSourceMeta(ctx, req.Source, metaOptions(req))
	if err != nil {
		return nil, ofBuild(err)
	}
	return metaPB(resp), nil
}

// metaOptions are those for the kind of source that is asked for.
func metaOptions(req *gwpb.ResolveSourceMetaRequest) sourceresolver.Opt {
	opt := sourceresolver.Opt{LogName: req.LogName}
	platform := platformSpec(req.Platform)
	scheme, _, _ := strings.Cut(req.Source.Identifier, "://")
	switch scheme {
	case "docker-image":
		opt.ImageOpt = &sourceresolver.ResolveImageOpt{
			Platform:            platform,
			ResolveMode:         req.ResolveMode,
			NoConfig:            req.Image.GetNoConfig(),
			AttestationChain:    req.Image.GetAttestationChain(),
			ResolveAttestations: req.Image.GetResolveAttestations(),
		}
	case "oci-layout":
		opt.OCILayoutOpt = &sourceresolver.ResolveOCILayoutOpt{Platform: platform}
	case "git":
		opt.GitOpt = &sourceresolver.ResolveGitOpt{ReturnObject: req.Git.GetReturnObject()}
	case "http", "https":
		if c := req.HTTP.GetChecksumRequest(); c != nil {
			opt.HTTPOpt = &sourceresolver.ResolveHTTPOpt{ChecksumReq: &sourceresolver.ResolveHTTPChecksumRequest{
				Algo: sourceresolver.ResolveHTTPChecksumAlgo(c.Algo), Suffix: c.Suffix,
			}}
		}
	}
	return opt
}

// ResolveImageConfig is what old clients have for ResolveSourceMeta.
func (s *Server) ResolveImageConfig(ctx context.Context, req *gwpb.ResolveImageConfigRequest) (*gwpb.ResolveImageConfigResponse, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkPolicies(req.SourcePolicies); err != nil {
		return nil, err
	}
	opt, platform := sourceresolver.Opt{LogName: req.LogName}, platformSpec(req.Platform)
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

func platformSpec(p *pb.Platform) *ocispec.Platform {
	if p == nil {
		return nil
	}
	spec := p.Spec()
	return &spec
}

func metaPB(in *sourceresolver.MetaResponse) *gwpb.ResolveSourceMetaResponse {
	out := &gwpb.ResolveSourceMetaResponse{Source: in.Op}
	if i := in.Image; i != nil {
		out.Image = &gwpb.ResolveSourceImageResponse{Digest: string(i.Digest), Config: i.Config, AttestationChain: chainPB(i.AttestationChain)}
	}
	if g := in.Git; g != nil {
		out.Git = &gwpb.ResolveSourceGitResponse{
			Checksum: g.Checksum, Ref: g.Ref, CommitChecksum: g.CommitChecksum, CommitObject: g.CommitObject, TagObject: g.TagObject,
		}
	}
	if h := in.HTTP; h != nil {
		out.HTTP = &gwpb.ResolveSourceHTTPResponse{Checksum: string(h.Digest), Filename: h.Filename}
		if h.LastModified != nil {
			out.HTTP.LastModified = timestamppb.New(*h.LastModified)
		}
		if c := h.ChecksumResponse; c != nil {
			out.HTTP.ChecksumResponse = &gwpb.ChecksumResponse{Digest: c.Digest, Suffix: c.Suffix}
		}
	}
	return out
}

func chainPB(in *sourceresolver.AttestationChain) *gwpb.AttestationChain {
	if in == nil {
		return nil
	}
	out := &gwpb.AttestationChain{
		Root:                string(in.Root),
		ImageManifest:       string(in.ImageManifest),
		AttestationManifest: string(in.AttestationManifest),
		SignatureManifests:  strs(in.SignatureManifests),
		Blobs:               map[string]*gwpb.Blob{},
	}
	for d, b := range in.Blobs {
		out.Blobs[string(d)] = &gwpb.Blob{Data: b.Data, Descriptor_: &gwpb.Descriptor{
			MediaType: b.Descriptor.MediaType, Digest: string(b.Descriptor.Digest), Size: b.Descriptor.Size, Annotations: b.Descriptor.Annotations,
		}}
	}
	return out
}

func strs(in []digest.Digest) []string {
	var out []string
	for _, d := range in {
		out = append(out, string(d))
	}
	return out
}
