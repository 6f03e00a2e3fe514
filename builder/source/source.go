// Package source makes the ops of the steps that everything starts from: images
// of registries and of clients, clients' directories, and files that they send.
// What they make is a *layer.Layer.
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
	"github.com/kiln-build/kiln/builder/source/upload"
	"github.com/kiln-build/kiln/builder/store"
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
	Local *local.Source
	// Images has the manifests and configs that are kept between builds.
	Images  *image.Source
	uploads *upload.Source
}

// New returns the sources, with what earlier processes have left.
func New(ctx context.Context, cfg Config) (*Sources, error) {
	dirs, err := local.New(ctx, local.Config{
		Root: filepath.Join(cfg.Root, "local"), Store: cfg.Store, Layers: cfg.Layers, Sessions: cfg.Sessions,
	})
	if err != nil {
		return nil, err
	}
	uploads, err := upload.New(upload.Config{Dir: filepath.Join(cfg.Root, "upload"), Layers: cfg.Layers, Sessions: cfg.Sessions})
	if err != nil {
		return nil, err
	}
	return &Sources{Local: dirs, uploads: uploads, Images: image.New(image.Config{
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
		return s.Images.Op(step)
	case local.Scheme:
		return s.Local.Op(step)
	case "http", "https":
		if upload.Is(id) {
			return s.uploads.Op(step)
		}
		return nil, fmt.Errorf("source %q: files from the network are not supported by this builder: %w", id, errdefs.ErrNotImplemented)
	}
	return nil, fmt.Errorf("source %q: no such scheme: %w", id, errdefs.ErrNotFound)
}

// Canonical gives the one name of a source that may be named in several ways; of one
// that can't be understood, the name it has.
func Canonical(op *pb.SourceOp) string {
	id := op.GetIdentifier()
	if name, ok := strings.CutPrefix(id, image.Scheme+"://"); ok {
		if name, err := image.Canonical(name); err == nil {
			return image.Scheme + "://" + name
		}
	}
	return id
}

// MetaRequest asks what an image is, without its layers.
type MetaRequest struct {
	// Op is the source; its attributes count.
	Op *pb.SourceOp
	// Platform may be nil.
	Platform *pb.Platform
	// ResolveMode is for images of registries, in place of the attribute; ""
	// leaves that.
	ResolveMode string
	// DigestOnly: the config isn't wanted.
	DigestOnly bool
}

// MetaResult is the answer.
type MetaResult = image.Meta

// ResolveMeta answers for images. It fails with errdefs.ErrNotImplemented for
// other sources.
func (s *Sources) ResolveMeta(ctx context.Context, job schedule.Job, req MetaRequest) (MetaResult, error) {
	scheme, _, _ := strings.Cut(req.Op.GetIdentifier(), "://")
	if scheme != image.Scheme && scheme != image.LayoutScheme {
		return MetaResult{}, fmt.Errorf("metadata of source %q: %w", req.Op.GetIdentifier(), errdefs.ErrNotImplemented)
	}
	op := req.Op
	if req.ResolveMode != "" {
		op = &pb.SourceOp{Identifier: op.Identifier, Attrs: map[string]string{}}
		maps.Copy(op.Attrs, req.Op.Attrs)
		op.Attrs[pb.AttrImageResolveMode] = req.ResolveMode
	}
	return s.Images.Meta(ctx, job, image.MetaRequest{Op: op, Platform: req.Platform, DigestOnly: req.DigestOnly})
}
