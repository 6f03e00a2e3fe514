package kit

import (
	"encoding/json"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types: the suites' goldens and some tests want an image as
// docker.io has it.
const (
	mediaManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaConfig   = "application/vnd.docker.container.image.v1+json"
	mediaGzip     = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	mediaTar      = "application/vnd.docker.image.rootfs.diff.tar"
	mediaForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar"
)

// blob is content with what a manifest says of it.
type blob struct {
	ocispec.Descriptor
	content []byte
}

func newBlob(mediaType string, content []byte) blob {
	return blob{ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}, content}
}

// layer is a blob and the digest of its archive.
type layer struct {
	blob
	diffID digest.Digest
}

// plain is a layer that is not compressed.
func (t *tree) plain() (layer, error) {
	archive, err := t.tar()
	return layer{newBlob(mediaTar, archive), digest.FromBytes(archive)}, err
}

// packed is a layer in gzip.
func (t *tree) packed() (layer, error) {
	l, err := t.plain()
	if err != nil {
		return layer{}, err
	}
	z, err := gzipped(l.content)
	return layer{newBlob(mediaGzip, z), l.diffID}, err
}

// image is a manifest with all that it names.
type image struct {
	manifest, config blob
	layers           []layer
}

// made is when all stand-ins say they were made; its fraction of a second is
// what tests of rounding look at.
var made = time.Date(2023, 11, 14, 22, 13, 21, 123456789, time.UTC)

// newImage makes an image for this machine's platform. A layer counts as made
// by one step, and a command as a step without a layer.
func newImage(config ocispec.ImageConfig, layers ...layer) (image, error) {
	i := image{layers: layers}
	c := ocispec.Image{
		Created: &made, Config: config,
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	m := ocispec.Manifest{MediaType: mediaManifest, Layers: []ocispec.Descriptor{}}
	m.SchemaVersion = 2
	before := made.Add(-time.Second)
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.diffID)
		c.History = append(c.History, ocispec.History{Created: &before, CreatedBy: "/bin/sh -c #(nop) ADD file in / "})
		m.Layers = append(m.Layers, l.Descriptor)
	}
	if len(config.Cmd) > 0 {
		c.History = append(c.History, ocispec.History{Created: &made, CreatedBy: `/bin/sh -c #(nop)  CMD ["sh"]`, EmptyLayer: true})
	}
	text, err := json.Marshal(c)
	if err != nil {
		return image{}, err
	}
	i.config = newBlob(mediaConfig, text)
	m.Config = i.config.Descriptor
	text, err = json.Marshal(m)
	i.manifest = newBlob(mediaManifest, text)
	return i, err
}
