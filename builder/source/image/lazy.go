package image

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// labelGrant tells kiln's lazy snapshotter whose credentials open the layer.
const labelGrant = "containerd.io/snapshot/kiln.build/grant"

// stargz-snapshotter's own labels; it has constants for them that it keeps to
// itself (fs/source/source.go).
const (
	stargzReference = "containerd.io/snapshot/remote/stargz.reference"
	stargzDigest    = "containerd.io/snapshot/remote/stargz.digest"
	stargzLayers    = "containerd.io/snapshot/remote/stargz.layers"
)

// nydusBootstrap is on the layer that has the table of contents of all of a nydus
// image's layers (nydus-snapshotter, pkg/label).
const nydusBootstrap = "containerd.io/snapshot/nydus-bootstrap"

// lazyLayers are the image's layers with annotations that tell lazy snapshotters,
// whoever's they are, where a layer is to be had, and exporters in which
// repository a registry has it.
func (s *Source) lazyLayers(job schedule.Job, req request, p pinned) []ocispec.Descriptor {
	if req.layout != nil {
		return fromNoRegistry(p.layers)
	}
	layers := make([]ocispec.Descriptor, len(p.layers))
	grant := s.grant(job, req, p)
	for i, l := range p.layers {
		a := maps.Clone(l.Annotations)
		if a == nil {
			a = map[string]string{}
		}
		from, _ := sourceLabels(req.ref)
		a[from] = req.ref.Repo
		a[layer.AnnotationSource] = req.ref.Host + "/" + req.ref.Repo
		rest := p.neighbours(i)
		if layer.Lazy(l) || l.Annotations[nydusBootstrap] != "" {
			maps.Copy(a, map[string]string{
				snapshotters.TargetRefLabel:            req.ref.Name,
				snapshotters.TargetManifestDigestLabel: p.path[len(p.path)-1].Digest.String(),
				snapshotters.TargetLayerDigestLabel:    l.Digest.String(),
				snapshotters.TargetImageLayersLabel:    rest,
			})
		}
		if a[estargz.TOCJSONDigestAnnotation] != "" {
			maps.Copy(a, map[string]string{
				stargzReference: req.ref.Name,
				stargzDigest:    l.Digest.String(),
				stargzLayers:    rest,
				labelGrant:      grant,
			})
		}
		l.Annotations = a
		layers[i] = l
	}
	return layers
}

// fromNoRegistry are the layers of an image that a client has, without what their
// annotations say of a registry: a lazy snapshotter would believe it and show a
// layer of any repository that this machine, or another client, may read.
func fromNoRegistry(layers []ocispec.Descriptor) []ocispec.Descriptor {
	own := make([]ocispec.Descriptor, len(layers))
	for i, l := range layers {
		l.Annotations = maps.Clone(l.Annotations)
		maps.DeleteFunc(l.Annotations, func(key, _ string) bool {
			label := strings.HasPrefix(key, "containerd.io/snapshot/") && key != estargz.TOCJSONDigestAnnotation
			return label || key == layer.AnnotationSource
		})
		own[i] = l
	}
	return own
}

// grant lets lazy layers of the image be fetched with the credentials of the job's
// sessions, for whom it was pinned. It is "" for an image without such layers.
func (s *Source) grant(job schedule.Job, req request, p pinned) string {
	for _, l := range p.layers {
		if l.Annotations[estargz.TOCJSONDigestAnnotation] != "" {
			return s.cfg.Registries.Grant(req.ref.Host+"/"+req.ref.Repo, job.Sessions())
		}
	}
	return ""
}

// Fetch brings a blob into the content store that the base of an image has, and that
// wasn't needed until now.
func (s *Source) Fetch(ctx context.Context, job schedule.Job, desc ocispec.Descriptor) error {
	source := desc.Annotations[layer.AnnotationSource]
	if source == "" {
		return fmt.Errorf("where blob %s came from isn't known: %w", desc.Digest, errdefs.ErrNotFound)
	}
	ref, err := parseRef(source)
	if err != nil {
		return err
	}
	from, err := s.remote(ctx, job, request{ref: ref})
	if err != nil {
		return err
	}
	return s.blobs.ensure(s.cfg.Store.Context(ctx), from, desc, job.Progress)
}

// neighbours are the digests of layer i and those above it, as many as fit into a
// label: they are looked up at the same time.
func (p pinned) neighbours(i int) string {
	list := ""
	for _, l := range p.layers[i:] {
		longer := strings.TrimPrefix(list+","+l.Digest.String(), ",")
		if labels.Validate(snapshotters.TargetManifestDigestLabel, longer) != nil {
			break
		}
		list = longer
	}
	return list
}
