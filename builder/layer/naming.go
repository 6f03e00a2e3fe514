package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A chain ID says what a tree is, and everybody on the machine believes it. Nobody
// can check it of a layer that a lazy snapshotter shows without fetching all: its
// content is checked against its table of contents alone, and what the image's
// config says of it is the image's claim. So such layers, and what is put on top
// of them, get names made of their blobs' digests: an image that lies about its
// diff IDs has names that no other image asks for.

// labelChecked is on the layers whose diff ID was computed here.
const labelChecked = "kiln.build/checked"

// names are what the layers of an image may be called.
type names struct {
	chain []string // chain IDs
	blobs []string // by the blobs that they are made of
	lazy  []bool   // the layer may be shown without being fetched
}

func (img Image) names() names {
	n := names{}
	for _, id := range identity.ChainIDs(append([]digest.Digest(nil), img.DiffIDs...)) {
		n.chain = append(n.chain, id.String())
	}
	below := ""
	for i, l := range img.Layers {
		below = fmt.Sprintf("blobs\x00%s\x00%s\x00%s\x00%s", below, l.Digest, l.Annotations[estargz.TOCJSONDigestAnnotation], img.DiffIDs[i])
		sum := sha256.Sum256([]byte(below))
		below = hex.EncodeToString(sum[:])
		n.blobs = append(n.blobs, "sha256:"+below)
		n.lazy = append(n.lazy, Lazy(l))
	}
	return n
}

// nydusBlob is the annotation, and the label, of layers that nydus-snapshotter
// shows without fetching them; what they hold is in a layer above.
const nydusBlob = "containerd.io/snapshot/nydus-blob"

// Lazy tells whether a layer may be shown without being fetched, by a snapshotter
// that knows its kind: it has a table of contents that the image vouches for, or is
// one of nydus's.
func Lazy(desc ocispec.Descriptor) bool { return lazyBy(desc.Annotations) }

func lazyBy(labels map[string]string) bool {
	return labels[estargz.TOCJSONDigestAnnotation] != "" || labels[nydusBlob] != ""
}

// wanted is the name that layer i is to have, on the layer that is called parent,
// if its content is not checked.
func (n names) wanted(i int, parent string) string {
	if n.lazy[i] || !n.checked(i, parent) {
		return n.blobs[i]
	}
	return n.chain[i]
}

// checked tells whether the parent of layer i has its chain ID as its name.
func (n names) checked(i int, parent string) bool {
	return i == 0 || parent == n.chain[i-1]
}

// trusted tells whether a snapshot that has the chain ID of the image's layer i as
// its name may be taken for that layer: it isn't shown lazily, or it is shown
// from the very blob of the image.
func (s *Store) trusted(ctx context.Context, img Image, i int, name string) (bool, error) {
	for ; name != "" && i >= 0; i-- {
		info, err := s.store.Snapshots.Stat(ctx, name)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if lazyBy(info.Labels) && info.Labels[labelChecked] == "" && !shownFrom(info, img.Layers[i]) {
			return false, nil
		}
		name = info.Parent
	}
	return true, nil
}

func shownFrom(info snapshots.Info, l ocispec.Descriptor) bool {
	if info.Labels[estargz.TOCJSONDigestAnnotation] != l.Annotations[estargz.TOCJSONDigestAnnotation] {
		return false
	}
	for _, key := range []string{"containerd.io/snapshot/cri.layer-digest", "containerd.io/snapshot/remote/stargz.digest"} {
		if d := info.Labels[key]; d != "" && d != l.Digest.String() {
			return false
		}
	}
	// Nydus's have nothing else that says which blob it is.
	return info.Labels[nydusBlob] == "" || info.Labels["containerd.io/snapshot/cri.layer-digest"] != ""
}
