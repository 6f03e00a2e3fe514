// Package export gives a build's result away: as an image in containerd's
// image store or a registry, as an archive of an image, as files or as a tar of
// files to the client.
//
// An [Exporter] is made from what the client asked for before the build begins,
// so that bad attributes fail early, and used once when the result is there.
package export

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/export/assemble"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/store"
)

// Config is what the exporters stand on; all fields but Images are needed.
type Config struct {
	Layers *layer.Store
	Store  *store.Store
	// Images is where images get their names; nil: they get none here.
	Images images.Store
	// Unnamed: so do those without a name, as PREFIX@DIGEST, for others who use the
	// store. Where nobody does they would only take space, which nothing frees.
	Unnamed  bool
	Sessions *session.Manager
	Registry Registry
	// Fetch brings a blob of a base into the content store that wasn't needed so
	// far; nil: that can't be done.
	Fetch func(ctx context.Context, job schedule.Job, desc ocispec.Descriptor) error
	// Labels are on the leases for what is being exported, by which one who starts
	// after a crash knows what is left.
	Labels map[string]string
}

// Registry reaches registries on behalf of sessions.
type Registry interface {
	// Resolver gives access to the repository of ref with the credentials of
	// the sessions; insecure allows plain HTTP and any certificate. A resolver
	// is used for one push and must not share its status tracker with others.
	Resolver(sessions func() []string, ref string, insecure bool) (remotes.Resolver, error)
}

// Target is one output that a client asked for.
type Target struct {
	// ID is the output's number in the client's request.
	ID   int
	Type string
	// Attrs are the target's options as they came; see the constructors of
	// the exporters for the keys.
	Attrs   map[string]string
	Session string
	// Compatibility is the level of behaviour that the client asked for: 10,
	// 20, 30, or 0 for the newest.
	Compatibility int
}

// Exporter writes a result to its target.
type Exporter interface {
	// Name is what a user is told, such as "exporting to image".
	Name() string
	// Files tells whether the files of the result's trees are needed, or only
	// their blobs: then the trees may be [layer.Remote].
	Files() bool
	// Export writes the result. It fails without leaving anything behind but
	// content that containerd collects. It is called once.
	Export(ctx context.Context, job schedule.Job, r Result) (Outcome, error)
}

// Outcome is what an export made.
type Outcome struct {
	// Response is for the client.
	Response map[string]string
	// Descriptor is that of the image; nil where there is none.
	Descriptor *ocispec.Descriptor
	// Documents are the image's index, manifests and configs.
	Documents []assemble.Document
	// Finalize does the rest, such as a push, which may run beside other work;
	// nil where there is none.
	Finalize func(ctx context.Context) error
	// Release must be called when the outcome, and Finalize, are done with:
	// until then the image's content is kept. It is never nil.
	Release func()
}

// Exporters makes exporters. It is safe for concurrent use.
type Exporters struct {
	cfg   Config
	retry retry
}

// New returns exporters for one store.
func New(cfg Config) *Exporters {
	return &Exporters{cfg: cfg, retry: defaultRetry}
}

// Resolve makes the exporter for a target. It fails where the type or an
// attribute is wrong; attributes that nobody knows are not.
func (e *Exporters) Resolve(_ context.Context, t Target) (Exporter, error) {
	switch t.Type {
	case "image", "registry":
		return newImage(e, t)
	case "oci", "docker":
		return newArchive(e, t)
	case "local":
		return newLocal(e, t)
	case "tar":
		return newTar(e, t)
	case "cacheonly":
		return nothing{}, nil
	}
	return nil, fmt.Errorf("exporter %q could not be found: %w", t.Type, errdefs.ErrNotFound)
}

// nothing leaves the result in the cache.
type nothing struct{}

func (nothing) Name() string { return "keeping the result in the cache" }

func (nothing) Files() bool { return true }

func (nothing) Export(context.Context, schedule.Job, Result) (Outcome, error) {
	return Outcome{Release: func() {}}, nil
}
