// Package source gives the steps that bring files into a build: images of
// registries and of OCI layouts, and directories of the client.
package source

import (
	"context"
	"fmt"
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

// Config is what the sources stand on; all of it is needed.
type Config struct {
	// Root is the builder's directory.
	Root       string
	Store      *store.Store
	Layers     *layer.Store
	Sessions   *session.Manager
	Registries *registry.Registries
	// Platform is that of images for which none is named.
	Platform ocispec.Platform
}

// Sources makes the ops of source steps. It is safe for concurrent use.
type Sources struct {
	images *image.Source
	locals *local.Source
}

// New opens the sources.
func New(ctx context.Context, cfg Config) (*Sources, error) {
	locals, err := local.New(ctx, local.Config{
		Root: filepath.Join(cfg.Root, "local"), Store: cfg.Store, Layers: cfg.Layers, Sessions: cfg.Sessions,
	})
	if err != nil {
		return nil, err
	}
	images := image.New(image.Config{
		Store: cfg.Store, Layers: cfg.Layers, Sessions: cfg.Sessions, Registries: cfg.Registries, Platform: cfg.Platform,
	})
	return &Sources{images: images, locals: locals}, nil
}

// Op implements schedule.Ops for steps that are sources.
func (s *Sources) Op(step *graph.Step) (schedule.Op, error) {
	switch scheme := schemeOf(step.Op.GetSource()); scheme {
	case image.Scheme, image.LayoutScheme:
		return s.images.Op(step)
	case local.Scheme:
		return s.locals.Op(step)
	default:
		return nil, unknown(scheme)
	}
}

// ResolveMeta says what a source is without fetching it: of an image, its
// digest and config. Other sources are returned as they came.
func (s *Sources) ResolveMeta(ctx context.Context, job schedule.Job, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	scheme := schemeOf(op)
	if scheme == local.Scheme {
		return &sourceresolver.MetaResponse{Op: op}, nil
	}
	if scheme != image.Scheme && scheme != image.LayoutScheme {
		return nil, unknown(scheme)
	}
	op, platform := withOptions(op, opt)
	meta, err := s.images.Meta(ctx, job, op, platform)
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{
		Op:    op,
		Image: &sourceresolver.ResolveImageResponse{Digest: meta.Digest, Config: meta.Config},
	}, nil
}

// withOptions puts what the options say into the op, and gives the platform.
func withOptions(op *pb.SourceOp, opt sourceresolver.Opt) (*pb.SourceOp, *pb.Platform) {
	op = op.CloneVT()
	if op.Attrs == nil {
		op.Attrs = map[string]string{}
	}
	var p *ocispec.Platform
	if o := opt.ImageOpt; o != nil {
		p = o.Platform
		if o.ResolveMode != "" {
			op.Attrs[pb.AttrImageResolveMode] = o.ResolveMode
		}
	}
	if o := opt.OCILayoutOpt; o != nil {
		p = o.Platform
		if o.Store.SessionID != "" {
			op.Attrs[pb.AttrOCILayoutSessionID] = o.Store.SessionID
		}
		if o.Store.StoreID != "" {
			op.Attrs[pb.AttrOCILayoutStoreID] = o.Store.StoreID
		}
	}
	if p == nil {
		return op, nil
	}
	platform := pb.PlatformFromSpec(*p)
	return op, platform
}

func schemeOf(op *pb.SourceOp) string {
	scheme, _, _ := strings.Cut(op.GetIdentifier(), "://")
	return scheme
}

func unknown(scheme string) error {
	return fmt.Errorf("sources of the kind %q are not supported by this builder: %w", scheme, errdefs.ErrNotImplemented)
}
