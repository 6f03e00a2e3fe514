package export

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
)

// archiveExporter sends an image to the client, as an OCI layout or as what
// docker load reads. Beside those of [imageOptions] it takes the attribute
//
//	tar   one tar file (default true), or each blob into the client's content
//	      store "export", in which it makes a layout
type archiveExporter struct {
	*Exporters
	imageOptions
	Target
	tar bool
}

func newArchive(e *Exporters, t Target) (Exporter, error) {
	a := newAttrs(t.Attrs)
	x := &archiveExporter{Exporters: e, Target: t, tar: a.mention("tar", true)}
	var err error
	if x.imageOptions, err = a.imageOptions(t); err != nil || x.names == anyName {
		return x, err
	}
	names, err := splitNames(x.names)
	if err != nil {
		return nil, err
	}
	return x, normalize(names) // a name that is none fails early
}

func (x *archiveExporter) Name() string {
	return fmt.Sprintf("exporting to %s image format", x.Type)
}

func (x *archiveExporter) Files() bool { return x.remade() }

func (x *archiveExporter) Export(ctx context.Context, job schedule.Job, r Result) (_ Outcome, err error) {
	if x.Type == "docker" && r.isMap() {
		return Outcome{}, fmt.Errorf("docker exporter does not currently support exporting manifest lists "+
			"(build for one platform, or use the oci exporter): %w", errdefs.ErrInvalidArgument)
	}
	client, err := x.cfg.Sessions.Get(ctx, x.Session)
	if err != nil {
		return Outcome{}, err
	}
	ctx, release, err := x.lease(ctx)
	if err != nil {
		return Outcome{}, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	img, err := x.prepare(ctx, job, r)
	if err != nil {
		return Outcome{}, err
	}
	resp, err := img.response()
	if err != nil {
		return Outcome{}, err
	}
	if x.tar {
		to := session.Output{ID: x.ID, Metadata: resp}
		err = sendFile(ctx, client, to, job.Progress, func(w io.Writer) error { return x.writeTar(ctx, w, img) })
	} else {
		err = x.sendBlobs(ctx, job, client, img)
	}
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{Response: resp, Descriptor: &img.root, Documents: img.documents(), Release: release}, nil
}

// prepare has the complete image in the content store.
func (x *archiveExporter) prepare(ctx context.Context, job schedule.Job, r Result) (*built, error) {
	img, err := x.build(ctx, job, r, x.imageOptions)
	if err != nil {
		return nil, err
	}
	if err := x.fetchUnless(ctx, job, img, func(layer.Blob) bool { return false }); err != nil {
		return nil, err
	}
	if err := img.complete(); err != nil {
		return nil, err
	}
	img.stamp(time.Now())
	if img.names, err = img.imageNames(x.names); err != nil {
		return nil, err
	}
	if err := normalize(img.names); err != nil {
		return nil, err
	}
	return img, x.write(ctx, job.Progress, img)
}

// stamp writes on the image's descriptor when it was made.
func (b *built) stamp(now time.Time) {
	if _, ok := b.root.Annotations[ocispec.AnnotationCreated]; ok {
		return
	}
	if b.epoch != nil {
		now = *b.epoch
	}
	b.root.Annotations[ocispec.AnnotationCreated] = now.UTC().Format(time.RFC3339)
}

// normalize replaces names by what docker and containerd call the images.
func normalize(names []string) error {
	for i, name := range names {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return fmt.Errorf("failed to parse %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
		names[i] = reference.TagNameOnly(named).String()
	}
	return nil
}

// writeTar writes the archive.
func (x *archiveExporter) writeTar(ctx context.Context, w io.Writer, img *built) error {
	opts := []archive.ExportOpt{archive.WithManifest(img.root, img.names...)}
	if x.Type == "oci" {
		opts = append(opts, archive.WithAllPlatforms(), archive.WithSkipDockerManifest())
	}
	return archive.Export(ctx, x.cfg.Store.Content, w, opts...)
}
