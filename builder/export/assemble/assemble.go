// Package assemble writes the documents of an image: config, manifest and
// index. It knows neither stores nor builds; the same input always gives the
// same bytes, and for the same layers these are the bytes that BuildKit writes,
// down to the indentation and to null for an empty list of layers.
package assemble

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/labels"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxDocument bounds a document. Registries refuse manifests of more than a few
// MiB; a config holds what a frontend likes to put there.
const maxDocument = 16 << 20

// Layer is one layer of the image to be.
type Layer struct {
	// Desc is the blob's, with a media type of either family. Annotations that
	// are private to the engine are not carried into the image.
	Desc   ocispec.Descriptor
	DiffID digest.Digest
	// Created and Description are for the layer's history entry where the
	// config has none. A zero Created is unknown.
	Created     time.Time
	Description string
}

// Input is what an image for one platform is made of.
type Input struct {
	// Config is the config as the frontend gave it; empty: [DefaultConfig].
	Config []byte
	// Base is the config of the image that this one was built on; may be empty.
	Base []byte
	// Layers are lowest first.
	Layers []Layer
	Types  Types
	// NonDistributable makes layers that say where else they are to be had
	// ones that are not to be pushed; otherwise there are none of these.
	NonDistributable bool
	// Annotations are the manifest's.
	Annotations map[string]string
	// Epoch bounds the times in the config from above; nil: no bound.
	Epoch *time.Time
}

// Document is one JSON file with its descriptor, which has media type, digest
// and size.
type Document struct {
	Desc ocispec.Descriptor
	Data []byte
}

// Image is an image for one platform.
type Image struct {
	Config   Document
	Manifest Document
	// Layers are as in the manifest.
	Layers  []ocispec.Descriptor
	DiffIDs []digest.Digest
}

// New makes config and manifest. It fails where the config can't be an image's.
func New(in Input) (*Image, error) {
	config, diffIDs, err := imageConfig(in)
	if err != nil {
		return nil, err
	}
	img := &Image{Config: document(in.Types.config(), config), DiffIDs: diffIDs}
	for _, l := range in.Layers {
		img.Layers = append(img.Layers, in.layer(l))
	}
	manifest, err := marshal(ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   in.Types.manifest(),
		Config:      img.Config.Desc,
		Layers:      img.Layers,
		Annotations: in.Annotations,
	})
	if err != nil {
		return nil, fmt.Errorf("image manifest: %w", err)
	}
	img.Manifest = document(in.Types.manifest(), manifest)
	return img, nil
}

// Index makes the document that joins the manifests, in their order.
func Index(types Types, manifests []ocispec.Descriptor, annotations map[string]string) (Document, error) {
	data, err := marshal(ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   types.index(),
		Manifests:   manifests,
		Annotations: annotations,
	})
	if err != nil {
		return Document{}, fmt.Errorf("image index: %w", err)
	}
	return document(types.index(), data), nil
}

func marshal(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err == nil && len(data) > maxDocument {
		err = fmt.Errorf("%d bytes are more than an image may have (%d)", len(data), maxDocument)
	}
	return data, err
}

func document(mediaType string, data []byte) Document {
	return Document{
		Desc: ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))},
		Data: data,
	}
}

// layer is the layer's descriptor as the manifest has it.
func (in *Input) layer(l Layer) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: in.Types.layer(l.Desc.MediaType), Digest: l.Desc.Digest, Size: l.Desc.Size}
	if in.NonDistributable && len(l.Desc.URLs) > 0 {
		desc.MediaType, desc.URLs = in.Types.foreignLayer(l.Desc.MediaType), l.Desc.URLs
	}
	if in.Types == OCI && len(l.Desc.Annotations) > 0 {
		desc.Annotations = maps.Clone(l.Desc.Annotations)
		maps.DeleteFunc(desc.Annotations, func(k, _ string) bool { return isPrivate(k) })
	}
	return desc
}

func isPrivate(annotation string) bool {
	return annotation == labels.LabelUncompressed || annotation == "buildkit/createdat" || strings.HasPrefix(annotation, "kiln.build/") ||
		strings.HasPrefix(annotation, labels.LabelDistributionSource+".")
}

func diffIDs(layers []Layer) ([]digest.Digest, error) {
	var ids []digest.Digest
	for _, l := range layers {
		if err := l.DiffID.Validate(); err != nil {
			return nil, fmt.Errorf("layer %s: diff id %q: %w", l.Desc.Digest, l.DiffID, err)
		}
		ids = append(ids, l.DiffID)
	}
	return slices.Clip(ids), nil
}
