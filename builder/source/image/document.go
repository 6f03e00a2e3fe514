package image

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// document is an index or a manifest.
type document struct {
	MediaType string               `json:"mediaType"`
	Manifests []ocispec.Descriptor `json:"manifests"`
	Config    ocispec.Descriptor   `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	FSLayers  json.RawMessage      `json:"fsLayers"` // only in schema 1
}

// parseDocument also says what it is. Whoever hands the document out and the
// document itself must agree, and it can't be read in two ways.
func parseDocument(raw []byte, told string) (d document, kind string, err error) {
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, "", fmt.Errorf("neither an index nor a manifest: %w", err)
	}
	switch {
	case d.FSLayers != nil:
		return d, "", errors.New("image manifests of schema 1 are not supported")
	case d.Manifests != nil && (d.Config.Digest != "" || d.Layers != nil):
		return d, "", errors.New("both an index and a manifest")
	case d.MediaType != "":
		kind = d.MediaType
	case isIndex(told) || isManifest(told):
		kind = told
	case d.Manifests != nil:
		kind = ocispec.MediaTypeImageIndex
	default:
		kind = ocispec.MediaTypeImageManifest
	}
	if (isIndex(told) || isManifest(told)) && told != kind {
		return d, "", fmt.Errorf("said to be %s, but is %s", told, kind)
	}
	switch {
	case isIndex(kind) && d.Manifests != nil, isManifest(kind) && d.Manifests == nil && d.Config.Digest != "":
		return d, kind, nil
	}
	return d, "", fmt.Errorf("neither an index nor a manifest, but %s", kind)
}

func isIndex(mediaType string) bool    { return images.IsIndexType(mediaType) }
func isManifest(mediaType string) bool { return images.IsManifestType(mediaType) }

func isConfig(mediaType string) bool {
	switch mediaType {
	case "", ocispec.MediaTypeImageConfig, images.MediaTypeDockerSchema2Config:
		return true
	}
	return false
}
