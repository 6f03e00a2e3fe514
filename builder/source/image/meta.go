package image

import (
	"context"

	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// MetaRequest asks what an image is.
type MetaRequest struct {
	// Op is the image as a source; its attributes count.
	Op *pb.SourceOp
	// Platform may be nil.
	Platform *pb.Platform
	// DigestOnly: the config isn't wanted.
	DigestOnly bool
}

// Meta is what is known of an image without its layers.
type Meta struct {
	// Ref is the reference that was resolved, as it was asked for.
	Ref string
	// Digest is that of the manifest or index that the reference stands for.
	Digest digest.Digest
	// Config is the image's config for the platform, as it is.
	Config []byte
}

// Meta resolves an image and reads its config.
func (s *Source) Meta(ctx context.Context, job schedule.Job, r MetaRequest) (Meta, error) {
	req, err := parseRequest(r.Op, toPlatform(r.Platform, s.cfg.Platform))
	if err != nil {
		return Meta{}, err
	}
	req.digestOnly = r.DigestOnly
	p, err := s.pin(ctx, job, req)
	if err != nil {
		return Meta{}, err
	}
	return Meta{Ref: req.String(), Digest: p.root.Digest, Config: p.raw}, nil
}
