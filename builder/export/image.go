package export

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/epoch"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
)

// imageExporter writes images into the image store, and pushes them. Beside
// those of [imageOptions] it takes the attributes
//
//	store                 record the image (default true); with
//	                      unsafe-internal-store-allow-incomplete even if it lacks layers
//	unpack                make the snapshots that a container of it needs
//	push, push-by-digest, registry.insecure
//	name-canonical        record it as NAME@DIGEST, too
//	dangling-name-prefix  record it as PREFIX@DIGEST, too,
//	danging-name-empty-only  but only if it has no name
type imageExporter struct {
	*Exporters
	imageOptions
	store, unpack, canonical  bool
	incomplete                bool
	push, byDigest, insecure  bool
	danglingPrefix            string
	danglingOnlyIfNoOtherName bool
}

func newImage(e *Exporters, t Target) (Exporter, error) {
	a := newAttrs(t.Attrs)
	x := &imageExporter{
		Exporters:                 e,
		store:                     a.mention("store", true),
		incomplete:                a.mention("unsafe-internal-store-allow-incomplete", false),
		unpack:                    a.mention("unpack", false),
		canonical:                 a.mention("name-canonical", false),
		push:                      a.mention("push", t.Type == "registry"),
		byDigest:                  a.mention("push-by-digest", false),
		insecure:                  a.mention("registry.insecure", false),
		danglingPrefix:            a.text("dangling-name-prefix"),
		danglingOnlyIfNoOtherName: a.mention("danging-name-empty-only", false),
	}
	var err error
	if x.imageOptions, err = a.imageOptions(t); err != nil {
		return nil, err
	}
	if x.rewrite && x.unpack {
		return nil, fmt.Errorf(`exporter option "rewrite-timestamp" conflicts with "unpack": %w`, errdefs.ErrInvalidArgument)
	}
	return x, x.checkNames()
}

// checkNames fails where a name that is known by now can't be pushed to.
func (x *imageExporter) checkNames() error {
	if !x.push || x.names == anyName {
		return nil
	}
	names, err := splitNames(x.names)
	for _, name := range names {
		if _, err := pushRef(name, digest.FromString(""), x.byDigest); err != nil {
			return fmt.Errorf("failed to push %s: %w", name, err)
		}
	}
	return err
}

func (x *imageExporter) Name() string { return "exporting to image" }

func (x *imageExporter) Files() bool { return x.unpack || x.stored() || x.remade() }

// stored: the image may become one of the store's.
func (x *imageExporter) stored() bool { return x.store && x.cfg.Images != nil }

func (x *imageExporter) Export(ctx context.Context, job schedule.Job, r Result) (_ Outcome, err error) {
	ctx, release, err := x.lease(ctx)
	if err != nil {
		return Outcome{}, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	img, err := x.build(ctx, job, r, x.imageOptions)
	if err != nil {
		return Outcome{}, err
	}
	named, err := img.imageNames(x.names)
	if err != nil {
		return Outcome{}, err
	}
	img.names = named
	if x.danglingPrefix != "" && (len(named) == 0 || !x.danglingOnlyIfNoOtherName) {
		img.names = append(slices.Clip(named), x.danglingPrefix+"@"+img.root.Digest.String())
	}
	kept := img.names
	if !x.cfg.Unnamed {
		kept = named
	}
	if x.stored() && len(kept) > 0 {
		err = x.keep(ctx, job, img, kept)
	} else {
		err = x.write(ctx, job.Progress, img)
	}
	if err != nil {
		return Outcome{}, err
	}
	resp, err := img.response()
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{Response: resp, Descriptor: &img.root, Documents: img.documents(), Release: release}
	switch {
	case x.push && len(named) > 0:
		out.Finalize = x.pushing(job, img, named)
	case x.push:
		job.Progress.Warn("nothing is pushed: the image has no name")
	}
	return out, nil
}

// keep makes the image one of the store's. Whoever finds it by a name finds it
// complete.
func (x *imageExporter) keep(ctx context.Context, job schedule.Job, img *built, names []string) error {
	progress := job.Progress
	if !x.incomplete {
		shown := func(b layer.Blob) bool { return b.Lazy() }
		if err := x.fetchUnless(ctx, job, img, shown); err != nil {
			return err
		}
		if err := img.complete(); err != nil {
			return err
		}
	}
	var unpack *platformImage
	if x.unpack || img.lazy() { // what isn't in the content store can only be had now
		unpack = img.local()
	}
	if unpack != nil {
		unpack.snapshot = unpack.chainID()
	}
	if err := x.write(ctx, progress, img); err != nil {
		return err
	}
	if unpack != nil {
		if err := x.unpackTo(ctx, progress, unpack, names[0]); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := x.record(ctx, progress, img, name); err != nil {
			return err
		}
	}
	return nil
}

// record gives the image a name in the store, in place of what had the name.
func (x *imageExporter) record(ctx context.Context, progress event.Progress, img *built, name string) error {
	defer progress.Begin("naming to " + name).Done()
	if img.epoch != nil {
		ctx = epoch.WithSourceDateEpoch(ctx, img.epoch)
	}
	all := []string{name}
	if x.canonical && !strings.Contains(name, "@") {
		all = append(all, name+"@"+img.root.Digest.String())
	}
	for _, name := range all {
		if err := putImage(ctx, x.cfg.Images, images.Image{Name: name, Target: img.root}); err != nil {
			return fmt.Errorf("name the image %s: %w", name, err)
		}
	}
	return nil
}

// putTries is how often a record may be created and deleted by others before
// we give up.
const putTries = 10

// putImage updates the record or creates it.
func putImage(ctx context.Context, store images.Store, img images.Image) error {
	var err error
	for range putTries {
		if _, err = store.Update(ctx, img); !errdefs.IsNotFound(err) {
			return err
		}
		if _, err = store.Create(ctx, img); !errdefs.IsAlreadyExists(err) {
			return err
		}
	}
	return err
}

// local is the part of the image that a container on this machine would run;
// nil if there is none, or it is empty.
func (b *built) local() *platformImage {
	match := platforms.Only(platforms.Normalize(platforms.DefaultSpec()))
	var best *platformImage
	for i := range b.platforms {
		p := &b.platforms[i]
		if match.Match(p.Platform.Platform) && len(p.DiffIDs) > 0 &&
			(best == nil || match.Less(p.Platform.Platform, best.Platform.Platform)) {
			best = p
		}
	}
	return best
}

// unpackTo makes the snapshots that containerd starts containers of the image
// from. The tree that the image was made of serves where it has the name.
func (x *imageExporter) unpackTo(ctx context.Context, progress event.Progress, p *platformImage, name string) error {
	if p.tree.Name == p.chainID() {
		return nil
	}
	defer progress.Begin("unpacking to " + name).Done()
	_, err := x.cfg.Layers.Unpack(ctx, layer.Image{Layers: p.Layers, DiffIDs: p.DiffIDs, Tree: p.tree}, progress)
	if err != nil {
		return fmt.Errorf("unpack the image for %s: %w", p.ID, err)
	}
	return nil
}
