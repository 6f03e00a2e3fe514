package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/event"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxDocument bounds the size of an index, a manifest and a config.
	maxDocument = 8 << 20
	// maxIndexes bounds how deep indexes may be nested.
	maxIndexes = 8
)

// puller finds an image's manifest and config for a platform.
type puller struct {
	blobs    *blobs
	from     remote
	name     string // for errors
	platform ocispec.Platform
	progress event.Progress
	// lease gives a context that keeps what is fetched with it, at least until
	// release is called. What is here already isn't kept: it would have to be
	// written down each time, and can be had again.
	lease func(context.Context) (_ context.Context, release func(), _ error)
}

// image is what a reference means on a platform.
type image struct {
	root     ocispec.Descriptor // an index or the manifest
	path     []ocispec.Descriptor
	config   ocispec.Image
	raw      []byte // the config as it is
	confDesc ocispec.Descriptor
	layers   []ocispec.Descriptor
}

// chain is the chain ID of all layers, "" where there are none.
func (i *image) chain() digest.Digest {
	return identity.ChainID(append([]digest.Digest(nil), i.config.RootFS.DiffIDs...))
}

// documents are the descriptors of all that isn't a layer.
func (i *image) documents() []ocispec.Descriptor {
	return append(append([]ocispec.Descriptor(nil), i.path...), i.confDesc)
}

// limit drops all but the first n layers.
func (i *image) limit(n int) error {
	if n > len(i.layers) {
		return fmt.Errorf("the image has %d layers, fewer than the limit of %d: %w", len(i.layers), n, errdefs.ErrInvalidArgument)
	}
	i.layers = i.layers[:n]
	i.config.RootFS.DiffIDs = i.config.RootFS.DiffIDs[:n]
	return nil
}

// find follows the root to the manifest of the platform and its config.
func (p *puller) find(ctx context.Context, root ocispec.Descriptor, req request) (*image, error) {
	img := &image{root: root}
	if req.digestOnly {
		return img, nil
	}
	for d := root; ; {
		doc, kind, err := p.readDocument(ctx, d)
		if err != nil {
			return nil, err
		}
		d.MediaType = kind
		img.path = append(img.path, d)
		if len(img.path) == 1 {
			img.root = d
		}
		if isManifest(kind) {
			return img, p.complete(ctx, img, doc)
		}
		if len(img.path) > maxIndexes {
			return nil, fmt.Errorf("%s: more than %d indexes, one inside the other: %w", p.name, maxIndexes, errdefs.ErrInvalidArgument)
		}
		if d, err = p.choose(ctx, doc.Manifests); err != nil {
			return nil, err
		}
	}
}

// complete reads the config that belongs to the manifest.
func (p *puller) complete(ctx context.Context, img *image, m document) (err error) {
	if !isConfig(m.Config.MediaType) {
		return fmt.Errorf("%s is no image to run: its config is of type %q: %w", p.name, m.Config.MediaType, errdefs.ErrInvalidArgument)
	}
	img.confDesc = m.Config
	if img.config, img.raw, err = p.readConfig(ctx, m.Config); err != nil {
		return err
	}
	if len(m.Layers) != len(img.config.RootFS.DiffIDs) {
		return fmt.Errorf("%s: the manifest has %d layers, the config %d: %w",
			p.name, len(m.Layers), len(img.config.RootFS.DiffIDs), errdefs.ErrInvalidArgument)
	}
	for _, l := range m.Layers {
		if err := l.Digest.Validate(); err != nil || l.Size < 0 || !images.IsLayerType(l.MediaType) {
			return fmt.Errorf("%s: layer %q of type %q and %d bytes: %w", p.name, l.Digest, l.MediaType, l.Size, errdefs.ErrInvalidArgument)
		}
	}
	for _, d := range img.config.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("%s: diff ID %q: %w: %w", p.name, d, err, errdefs.ErrInvalidArgument)
		}
	}
	img.layers = m.Layers
	return nil
}

func (p *puller) readManifest(ctx context.Context, d ocispec.Descriptor) (document, error) {
	doc, kind, err := p.readDocument(ctx, d)
	if err == nil && !isManifest(kind) {
		err = fmt.Errorf("%s: %s is no manifest: %w", p.name, d.Digest, errdefs.ErrInvalidArgument)
	}
	return doc, err
}

func (p *puller) readConfig(ctx context.Context, d ocispec.Descriptor) (cfg ocispec.Image, raw []byte, err error) {
	if raw, err = p.read(ctx, d); err != nil {
		return cfg, nil, err
	}
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return cfg, nil, fmt.Errorf("%s: config %s: %w: %w", p.name, d.Digest, err, errdefs.ErrInvalidArgument)
	}
	return cfg, raw, nil
}

// readDocument reads an index or a manifest and says which it is.
func (p *puller) readDocument(ctx context.Context, d ocispec.Descriptor) (document, string, error) {
	raw, err := p.read(ctx, d)
	if err != nil {
		return document{}, "", err
	}
	doc, kind, err := parseDocument(raw, d.MediaType)
	if err != nil {
		return document{}, "", fmt.Errorf("%s: %s: %w: %w", p.name, d.Digest, err, errdefs.ErrInvalidArgument)
	}
	return doc, kind, nil
}

func (p *puller) read(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%s: digest %q: %w: %w", p.name, d.Digest, err, errdefs.ErrInvalidArgument)
	}
	if d.Size < 0 || d.Size > maxDocument {
		return nil, fmt.Errorf("%s: %s has %d bytes, at most %d are read: %w", p.name, d.Digest, d.Size, maxDocument, errdefs.ErrInvalidArgument)
	}
	raw, err := p.readHere(ctx, d)
	if errdefs.IsNotFound(err) {
		raw, err = p.fetch(ctx, d)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", p.name, d.Digest, err)
	}
	return raw, nil
}

func (p *puller) fetch(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	ctx, release, err := p.lease(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := p.blobs.ensure(ctx, p.from, d, p.progress); err != nil {
		return nil, err
	}
	return p.readHere(ctx, d)
}

// readHere doesn't trust the descriptor's size: the blob may be any.
func (p *puller) readHere(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	ra, err := p.blobs.store.Content.ReaderAt(ctx, ocispec.Descriptor{Digest: d.Digest})
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > maxDocument {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read: %w", ra.Size(), maxDocument, errdefs.ErrInvalidArgument)
	}
	raw := make([]byte, ra.Size())
	_, err = io.ReadFull(content.NewReader(ra), raw)
	return raw, err
}
