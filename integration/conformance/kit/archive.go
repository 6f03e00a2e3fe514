package kit

import (
	"context"
	"encoding/json"
	"os"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// makeFrontendArchive writes the frontend's image as an OCI archive, the form in
// which the dockerfile suite takes a frontend to test.
func (k *Kit) makeFrontendArchive(ctx context.Context) error {
	images, err := k.images(ctx)
	if err != nil {
		return err
	}
	archive, err := ociArchive(images["docker/dockerfile:latest"])
	if err != nil {
		return err
	}
	return os.WriteFile(k.fresh("frontend.tar"), archive, 0o644)
}

// ociArchive is an image layout in a tar. Media types become the OCI's, which
// changes the manifest's digest and no other.
func ociArchive(i image) ([]byte, error) {
	config, layers := i.config, i.layers
	config.MediaType = ocispec.MediaTypeImageConfig
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config.Descriptor,
	}
	blobs := []blob{config}
	for _, l := range layers {
		l.MediaType = ocispec.MediaTypeImageLayerGzip
		m.Layers = append(m.Layers, l.Descriptor)
		blobs = append(blobs, l.blob)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	manifest := newBlob(ocispec.MediaTypeImageManifest, text)
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		Manifests: []ocispec.Descriptor{manifest.Descriptor},
	})
	if err != nil {
		return nil, err
	}
	t := &tree{}
	t.dirs(0o755, "blobs", "blobs/sha256")
	for _, b := range append(blobs, manifest) {
		t.file(0o644, "blobs/sha256/"+b.Digest.Encoded(), b.content)
	}
	t.file(0o644, ocispec.ImageIndexFile, index)
	t.file(0o644, ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return t.tar()
}
