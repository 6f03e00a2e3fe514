package export

import (
	solvererrdefs "github.com/moby/buildkit/solver/errdefs"

	"github.com/kiln-build/kiln/builder/export/assemble"
	"github.com/kiln-build/kiln/builder/layer"
)

// compatNewest is the level of behaviour that clients get who ask for none.
const compatNewest = 30

// imageOptions are the attributes that all exporters of images take:
//
//	name                   image names, separated by commas; "*": the frontend's choice
//	oci-mediatypes         OCI or Docker media types
//	compression, force-compression, compression-level
//	prefer-nondist-layers  keep the media types of layers that aren't to be pushed
//	source-date-epoch      bounds the times in config and records
//	annotation…            see [assemble.ParseAnnotations]
//	rewrite-timestamp      bounds the times of files, too
//	oci-artifact, attestation-inline
type imageOptions struct {
	names       string
	types       assemble.Types
	compression layer.Compression
	annotations assemble.Annotations
	epoch       epochAttr
	// rewrite: the epoch bounds the times of files, too.
	rewrite          bool
	nonDistributable bool
	// metadata are the attributes that nobody here knows. They go over what
	// the frontend says of the result.
	metadata map[string]string
}

// remade: layers that came as blobs may have to be made anew.
func (o *imageOptions) remade() bool { return o.compression.Force || o.rewrite }

// imageOptions takes the shared attributes; those that an exporter has of its
// own must have been taken before.
func (a *attrs) imageOptions(t Target) (imageOptions, error) {
	if t.Compatibility == 0 {
		t.Compatibility = compatNewest
	}
	o := imageOptions{
		names:            a.text("name"),
		compression:      a.compression(),
		annotations:      a.annotations(),
		epoch:            a.epoch(),
		rewrite:          a.option("rewrite-timestamp"),
		nonDistributable: a.option("prefer-nondist-layers"),
	}
	oci, artifact := t.Type == "oci" || t.Compatibility >= compatNewest, a.option("oci-artifact")
	if asked := a.flag("oci-mediatypes"); asked != nil {
		oci = *asked
	}
	a.flag("attestation-inline") // there are no attestations
	if !oci {
		o.types = assemble.Docker
	}
	switch {
	case !oci && o.compression.Type == layer.EStargz:
		a.fail(`exporter option "compression=estargz" conflicts with "oci-mediatypes=false"`)
	case !oci && artifact:
		a.fail(`exporter option "oci-artifact=true" conflicts with "oci-mediatypes=false"`)
	}
	if o.names != anyName {
		if _, err := splitNames(o.names); err != nil {
			a.err = cmpErr(a.err, err)
		}
	}
	if a.err != nil {
		return o, a.err
	}
	if t.Compatibility == 10 && o.compression.Type == layer.Zstd {
		return o, solvererrdefs.NewUnsupportedCompatibilityFeatureError(t.Compatibility, t.Type+" exporter compression=zstd")
	}
	o.metadata = a.left
	return o, nil
}

func cmpErr(first, next error) error {
	if first != nil {
		return first
	}
	return next
}
