package export

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/export/assemble"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
)

// built is an image whose layers are in the content store.
type built struct {
	// root describes the image as a whole: its index or only manifest.
	root      ocispec.Descriptor
	index     *assemble.Document // nil where there is one manifest only
	platforms []platformImage
	// names are set by the exporter.
	names []string
	// epoch is for the whole image; nil: none.
	epoch    *time.Time
	metadata map[string][]byte
}

// platformImage is the image for one platform.
type platformImage struct {
	part
	*assemble.Image
	blobs []layer.Blob // of the layers
	// snapshot is the name of the unpacked tree that the config is to keep;
	// "": none.
	snapshot string
}

// chainID names the snapshot that a container of the image starts from; "" for
// an empty image.
func (b *platformImage) chainID() string {
	if len(b.DiffIDs) == 0 {
		return ""
	}
	return identity.ChainID(b.DiffIDs).String()
}

// build makes the layers' blobs and the image's documents.
func (e *Exporters) build(ctx context.Context, job schedule.Job, r Result, o imageOptions) (*built, error) {
	r.Metadata = maps.Clone(r.Metadata)
	if r.Metadata == nil {
		r.Metadata = map[string][]byte{}
	}
	for k, v := range o.metadata {
		r.Metadata[k] = []byte(v)
	}
	parts, err := r.parts()
	if err != nil {
		return nil, err
	}
	annotations, err := o.annotationsFor(r, parts)
	if err != nil {
		return nil, err
	}
	epochs, err := o.epochs(job.Progress, parts, r.Metadata)
	if err != nil {
		return nil, err
	}
	compressions, err := o.compressions(parts, epochs, r.Metadata)
	if err != nil {
		return nil, err
	}
	blobs, err := e.blobs(ctx, job.Progress, parts, compressions)
	if err != nil {
		return nil, err
	}
	b := &built{metadata: r.Metadata, epoch: epochs[0]}
	for i, p := range parts {
		in := o.input(p, r.Metadata, blobs[i])
		in.Annotations, in.Epoch = annotations.At(assemble.OnManifest, p.Platform.Platform), epochs[i]
		img, err := assemble.New(in)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", p.ID, err)
		}
		b.platforms = append(b.platforms, platformImage{part: p, Image: img, blobs: blobs[i]})
	}
	manifests := b.describe(annotations)
	if !r.isMap() {
		b.root = manifests[0]
		return b, nil
	}
	index, err := assemble.Index(o.types, manifests, annotations.OfIndex(assemble.OnIndex))
	if err != nil {
		return nil, err
	}
	b.index, b.root = &index, index.Desc
	b.root.Annotations = annotations.OfIndex(assemble.OnIndexDescriptor)
	return b, nil
}

// describe gives the descriptors of the manifests as an index has them.
func (b *built) describe(annotations assemble.Annotations) []ocispec.Descriptor {
	manifests := make([]ocispec.Descriptor, len(b.platforms))
	for i := range b.platforms {
		p := &b.platforms[i]
		manifests[i] = p.Manifest.Desc
		manifests[i].Annotations = annotations.At(assemble.OnManifestDescriptor, p.Platform.Platform)
		manifests[i].Platform = &p.Platform.Platform
	}
	return manifests
}

// annotationsFor joins the target's annotations with the frontend's, which win.
func (o *imageOptions) annotationsFor(r Result, parts []part) (assemble.Annotations, error) {
	more, err := assemble.ParseAnnotations(r.Metadata)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(o.annotations, more)
	platforms := make([]assemble.Platform, len(parts))
	for i, p := range parts {
		platforms[i] = p.Platform
	}
	if err := all.Check(o.types, platforms); err != nil {
		return nil, err
	}
	if !r.isMap() {
		return all, all.CheckSingle()
	}
	return all, nil
}

// compressions say in which form the layers of each part are wanted.
func (o *imageOptions) compressions(parts []part, epochs []*time.Time, metadata map[string][]byte) ([]layer.Compression, error) {
	all := make([]layer.Compression, len(parts))
	for i, p := range parts {
		all[i] = o.compression
		if !o.rewrite || epochs[i] == nil {
			continue
		}
		bases, err := assemble.LayerCount(p.Lookup(metadata, assemble.KeyBaseConfig))
		if err != nil {
			return nil, err
		}
		all[i].Epoch, all[i].Bases = epochs[i], bases
	}
	return all, nil
}

// blobs makes the blobs of all platforms' layers.
func (e *Exporters) blobs(ctx context.Context, progress event.Progress, parts []part, cs []layer.Compression) ([][]layer.Blob, error) {
	item := progress.Begin("exporting layers")
	defer item.Done()
	blobs := make([][]layer.Blob, len(parts))
	eg, ctx := errgroup.WithContext(ctx)
	for i, p := range parts {
		eg.Go(func() (err error) {
			blobs[i], err = e.cfg.Layers.Blobs(ctx, p.tree, cs[i], progress)
			if have := len(p.tree.Chain()); err == nil && len(blobs[i]) != have {
				err = fmt.Errorf("%d blobs for %d layers", len(blobs[i]), have)
			}
			if err != nil {
				return fmt.Errorf("layers for %s: %w", p.ID, err)
			}
			return nil
		})
	}
	return blobs, eg.Wait()
}

// epochs are those of the parts.
func (o *imageOptions) epochs(progress event.Progress, parts []part, metadata map[string][]byte) ([]*time.Time, error) {
	all := make([]*time.Time, len(parts))
	for i, p := range parts {
		at, err := o.epoch.of(p.Platform, metadata)
		if err != nil {
			return nil, err
		}
		all[i] = at
	}
	if o.rewrite && !slices.ContainsFunc(all, func(at *time.Time) bool { return at != nil }) {
		progress.Warn("rewrite-timestamp has no effect without SOURCE_DATE_EPOCH")
	}
	return all, nil
}

// input is what the image for a part is made of, but for annotations and epoch.
func (o *imageOptions) input(p part, metadata map[string][]byte, blobs []layer.Blob) assemble.Input {
	in := assemble.Input{
		Config:           p.Lookup(metadata, assemble.KeyConfig),
		Base:             p.Lookup(metadata, assemble.KeyBaseConfig),
		Types:            o.types,
		NonDistributable: o.nonDistributable,
	}
	for i, l := range p.tree.Chain() {
		in.Layers = append(in.Layers, assemble.Layer{
			Desc: blobs[i].Desc, DiffID: blobs[i].DiffID, Created: l.Created, Description: l.Description,
		})
	}
	return in
}

// lazy tells whether layers that are shown lazily aren't in the content store.
func (b *built) lazy() bool {
	for _, p := range b.platforms {
		for _, blob := range p.blobs {
			if blob.Absent && blob.Lazy() {
				return true
			}
		}
	}
	return false
}

// fetchUnless brings the blobs here that aren't yet, where it is known from where,
// but for those that can do without.
func (e *Exporters) fetchUnless(ctx context.Context, job schedule.Job, img *built, without func(layer.Blob) bool) error {
	for _, p := range img.platforms {
		for i, blob := range p.blobs {
			if !blob.Remote() || e.cfg.Fetch == nil || without(blob) {
				continue
			}
			if err := e.cfg.Fetch(ctx, job, blob.Desc); err != nil {
				return fmt.Errorf("layer %s of the base: %w", blob.Desc.Digest, err)
			}
			p.blobs[i].Absent = false
		}
	}
	return nil
}

// complete fails unless all layers are in the content store, but for those that
// are shown lazily: an image that was pulled lazily lacks them as well.
func (b *built) complete() error {
	for _, p := range b.platforms {
		for _, blob := range p.blobs {
			if blob.Absent && !blob.Lazy() {
				return fmt.Errorf("layer %s of the image for %s is not in the content store: it came with a base image "+
					"that was pulled without its layers; pull that image completely and build again: %w",
					blob.Desc.Digest, p.ID, errdefs.ErrNotFound)
			}
		}
	}
	return nil
}

// anyName leaves the name to the frontend.
const anyName = "*"

// imageNames are the names that the target asked for.
func (b *built) imageNames(asked string) ([]string, error) {
	if asked == anyName {
		asked = string(b.metadata[assemble.KeyName])
		if asked == "" {
			return nil, errors.New(`"name=*" needs a frontend that names the image, and this one didn't`)
		}
	}
	return splitNames(asked)
}

// documents are all that an image consists of beside its layers.
func (b *built) documents() (all []assemble.Document) {
	if b.index != nil {
		all = append(all, *b.index)
	}
	for _, p := range b.platforms {
		all = append(all, p.Manifest, p.Config)
	}
	return all
}

// response is what the client is told of the image.
func (b *built) response() (map[string]string, error) {
	desc, err := json.Marshal(b.root)
	if err != nil {
		return nil, fmt.Errorf("image descriptor: %w", err)
	}
	resp := map[string]string{
		"containerimage.digest":     b.root.Digest.String(),
		"containerimage.descriptor": base64.StdEncoding.EncodeToString(desc),
	}
	if b.index == nil {
		resp["containerimage.config.digest"] = b.platforms[0].Config.Desc.Digest.String()
	}
	if len(b.names) > 0 {
		resp["image.name"] = strings.Join(b.names, ",")
	}
	return resp, nil
}
