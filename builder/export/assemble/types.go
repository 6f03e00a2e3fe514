package assemble

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Types is a family of media types.
type Types int

// The families.
const (
	OCI Types = iota
	Docker
)

func (t Types) pick(oci, docker string) string {
	if t == Docker {
		return docker
	}
	return oci
}

func (t Types) config() string {
	return t.pick(ocispec.MediaTypeImageConfig, images.MediaTypeDockerSchema2Config)
}

func (t Types) manifest() string {
	return t.pick(ocispec.MediaTypeImageManifest, images.MediaTypeDockerSchema2Manifest)
}

func (t Types) index() string {
	return t.pick(ocispec.MediaTypeImageIndex, images.MediaTypeDockerSchema2ManifestList)
}

// The OCI types of layers that are not to be pushed are deprecated, but bases
// that have them are about.
const (
	ociForeign     = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	ociForeignGzip = ociForeign + "+gzip"
	ociForeignZstd = ociForeign + "+zstd"
)

// layerTypes are the same type in both families.
var layerTypes = []struct{ oci, docker string }{
	{ocispec.MediaTypeImageLayer, images.MediaTypeDockerSchema2Layer},
	{ocispec.MediaTypeImageLayerGzip, images.MediaTypeDockerSchema2LayerGzip},
	{ocispec.MediaTypeImageLayerZstd, images.MediaTypeDockerSchema2LayerZstd},
	{ociForeign, images.MediaTypeDockerSchema2LayerForeign},
	{ociForeignGzip, images.MediaTypeDockerSchema2LayerForeignGzip},
	{ociForeignZstd, ""},
}

// layer translates a layer's media type into this family.
func (t Types) layer(mediaType string) (string, error) {
	for _, lt := range layerTypes {
		if mediaType != "" && (mediaType == lt.oci || mediaType == lt.docker) {
			if to := t.pick(lt.oci, lt.docker); to != "" {
				return to, nil
			}
		}
	}
	return "", fmt.Errorf("media type %q can't be in an image with %s media types", mediaType, t.pick("OCI", "Docker"))
}

// distributable is the ordinary type for one that is not to be pushed.
func distributable(mediaType string) string {
	return strings.NewReplacer(".nondistributable.", ".", ".foreign.", ".").Replace(mediaType)
}
