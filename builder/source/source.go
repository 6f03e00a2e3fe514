// Package source makes the ops of the steps that everything starts from: images
// of registries and of clients, and clients' directories. What they make is a
// *layer.Layer.
package source

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/source/image"
	"github.com/kiln-build/kiln/builder/source/local"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config is what sources stand on.
type Config struct {
	// Root is a directory of the sources alone; made if absent.
	Root       string
	Store      *store.Store
	Layers     *layer.Store
	Sessions   *session.Manager
	Registries *registry.Registries
	// Platform is that of images for which none is asked for.
	Platform ocispec.Platform
}

// Sources makes ops. It is safe for concurrent use.
type Sources struct {
	// Local has the directories that are kept between builds.
	Local  *local.Source
	images *image.Source
}

// New returns the sources, with what earlier processes have left.
func New(ctx context.Context, cfg Config) (*Sources, error) {
	dirs, err := local.New(ctx, local.Config{
		Root: filepath.Join(cfg.Root, "local"), Store: cfg.Store, Layers: cfg.Layers, Sessions: cfg.Sessions,
	})
	if err != nil {
		return nil, err
	}
	return &Sources{Local: dirs, images: image.New(image.Config{
		Store: cfg.Store, Layers: cfg.Layers, Sessions: cfg.Sessions, Registries: cfg.Registries, Platform: cfg.Platform,
	})}, nil
}

// Op makes the op of a step with a source. It fails with errdefs.ErrNotFound
// where the scheme is not known.
func (s *Sources) Op(step *graph.Step) (schedule.Op, error) {
	id := step.Op.GetSource().GetIdentifier()
	scheme, _, _ := strings.Cut(id, "://")
	switch scheme {
	case image.Scheme, image.LayoutScheme:
		return s.images.Op(step)
	case local.Scheme:
		return s.Local.Op(step)
	}
	return nil, fmt.Errorf("source %q: no such scheme: %w", id, errdefs.ErrNotFound)
}

// ResolveMeta finds out what an image is without fetching its layers: the
// digest that its reference stands for and its config for the platform, as it
// is. Options that are given count before the op's attributes. It fails with
// errdefs.ErrNotImplemented for sources that are no images.
func (s *Sources) ResolveMeta(ctx context.Context, job schedule.Job, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	scheme, _, _ := strings.Cut(op.GetIdentifier(), "://")
	req := image.MetaRequest{Op: op}
	switch scheme {
	case image.Scheme:
		if o := opt.ImageOpt; o != nil {
			if o.AttestationChain || len(o.ResolveAttestations) > 0 {
				return nil, fmt.Errorf("attestations of %s: %w", op.Identifier, errdefs.ErrNotImplemented)
			}
			req.Platform, req.DigestOnly = o.Platform, o.NoConfig
			req.Op = with(op, pb.AttrImageResolveMode, o.ResolveMode)
		}
	case image.LayoutScheme:
		if o := opt.OCILayoutOpt; o != nil {
			req.Platform = o.Platform
			req.Op = with(op, pb.AttrOCILayoutSessionID, o.Store.SessionID, pb.AttrOCILayoutStoreID, o.Store.StoreID)
		}
	default:
		return nil, fmt.Errorf("metadata of source %q: %w", op.GetIdentifier(), errdefs.ErrNotImplemented)
	}
	m, err := s.images.Meta(ctx, job, req)
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{Op: op, Image: &sourceresolver.ResolveImageResponse{Digest: m.Digest, Config: m.Config}}, nil
}

// with gives the op with attributes, but for empty ones.
func with(op *pb.SourceOp, attrs ...string) *pb.SourceOp {
	out := &pb.SourceOp{Identifier: op.Identifier, Attrs: map[string]string{}}
	maps.Copy(out.Attrs, op.Attrs)
	for i := 0; i+1 < len(attrs); i += 2 {
		if attrs[i+1] != "" {
			out.Attrs[attrs[i]] = attrs[i+1]
		}
	}
	return out
}
