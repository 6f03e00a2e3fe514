package assemble

import (
	"slices"

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

// layerTypes are the forms of layers with their types in each family. Docker
// has none for the last.
var layerTypes = []struct{ ordinary, foreign [2]string }{
	{
		[2]string{OCI: ocispec.MediaTypeImageLayer, Docker: images.MediaTypeDockerSchema2Layer},
		[2]string{OCI: ociForeign, Docker: images.MediaTypeDockerSchema2LayerForeign},
	}, {
		[2]string{OCI: ocispec.MediaTypeImageLayerGzip, Docker: images.MediaTypeDockerSchema2LayerGzip},
		[2]string{OCI: ociForeignGzip, Docker: images.MediaTypeDockerSchema2LayerForeignGzip},
	}, {
		[2]string{OCI: ocispec.MediaTypeImageLayerZstd, Docker: images.MediaTypeDockerSchema2LayerZstd},
		[2]string{OCI: ociForeignZstd, Docker: ociForeignZstd},
	},
}

// layer is the type in this family for a layer that may be pushed. A type that
// nobody here knows stays what it is.
func (t Types) layer(mediaType string) string {
	for _, lt := range layerTypes {
		if slices.Contains(lt.ordinary[:], mediaType) || slices.Contains(lt.foreign[:], mediaType) {
			return lt.ordinary[t]
		}
	}
	return mediaType
}

// foreignLayer is the type for a layer that is to be had elsewhere only.
func (t Types) foreignLayer(mediaType string) string {
	for _, lt := range layerTypes {
		if slices.Contains(lt.ordinary[:], mediaType) || slices.Contains(lt.foreign[:], mediaType) {
			return lt.foreign[t]
		}
	}
	return mediaType
}
