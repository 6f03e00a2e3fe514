package frontend

import (
	"strings"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// MetaOptions are those for the kind of source that the request asks for, which has
// one.
func MetaOptions(req *gwpb.ResolveSourceMetaRequest) sourceresolver.Opt {
	opt := sourceresolver.Opt{LogName: req.LogName, SourcePolicies: req.SourcePolicies}
	platform := PlatformSpec(req.Platform)
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

// PlatformSpec is a platform in the terms of image specifications; nil is nil.
func PlatformSpec(p *pb.Platform) *ocispec.Platform {
	if p == nil {
		return nil
	}
	spec := p.Spec()
	return &spec
}

// MetaResponse is an answer as it goes over the wire.
func MetaResponse(in *sourceresolver.MetaResponse) *gwpb.ResolveSourceMetaResponse {
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
