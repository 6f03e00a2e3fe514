package layer

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The blobs of a layer are written down in labels of its snapshot, so that the
// two can't disagree:
//
//	kiln.build/blob.<name>                  blobRecord as JSON
//	containerd.io/gc.ref.content.kiln.<name>  the blob's digest; keeps the blob
//	                                          as long as the snapshot
//
// where the name is sourceBlob for the blob that the layer was unpacked from,
// else that of the compression.
const (
	labelBlob    = "kiln.build/blob."
	labelBlobRef = "containerd.io/gc.ref.content.kiln."
	sourceBlob   = "source"
)

// maxRecord keeps a label below containerd's limit of 4096 bytes.
const maxRecord = 3500

type blobRecord struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	DiffID      digest.Digest     `json:"diffID"`
	URLs        []string          `json:"urls,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// AnnotationSource is on the blobs of images that came from a registry: HOST/REPOSITORY,
// with the host's port.
const AnnotationSource = "kiln.build/source"

// keptAnnotations are the prefixes of what a descriptor has to keep: where the
// parts of a lazily pulled blob lie, and from where the blob came.
var keptAnnotations = []string{
	"containerd.io/snapshot/stargz/",
	"containerd.io/snapshot/nydus-",
	"io.containers.estargz.",
	"io.github.containers.zstd-chunked.",
	"io.containers.zstd-chunked.",
	"containerd.io/distribution.source.",
	AnnotationSource,
	annotationEpoch,
}

func kept(annotations map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range annotations {
		for _, prefix := range keptAnnotations {
			if strings.HasPrefix(k, prefix) {
				out[k] = v
			}
		}
	}
	return out
}

// blobLabels returns the labels that write a blob down; what is too long for
// one is left out.
func blobLabels(name string, b Blob) (map[string]string, error) {
	r := blobRecord{
		MediaType: b.Desc.MediaType, Digest: b.Desc.Digest, Size: b.Desc.Size,
		DiffID: b.DiffID, URLs: b.Desc.URLs, Annotations: kept(b.Desc.Annotations),
	}
	data, err := json.Marshal(r)
	if err == nil && len(data) > maxRecord {
		r.URLs, r.Annotations = nil, nil
		data, err = json.Marshal(r)
	}
	if err == nil && len(data) > maxRecord {
		err = fmt.Errorf("the descriptor of blob %s is too long to be kept", b.Desc.Digest)
	}
	if err != nil {
		return nil, err
	}
	labels := map[string]string{labelBlob + name: string(data), labelBlobRef + name: ""}
	if !b.Absent {
		labels[labelBlobRef+name] = b.Desc.Digest.String()
	}
	return labels, nil
}

// readBlob returns what blobLabels was given, nil where there is nothing.
func readBlob(labels map[string]string, name string) *Blob {
	var r blobRecord
	if err := json.Unmarshal([]byte(labels[labelBlob+name]), &r); err != nil {
		return nil
	}
	if r.Digest.Validate() != nil || r.DiffID.Validate() != nil {
		return nil
	}
	return &Blob{
		Desc: ocispec.Descriptor{
			MediaType: r.MediaType, Digest: r.Digest, Size: r.Size,
			URLs: r.URLs, Annotations: r.Annotations,
		},
		DiffID: r.DiffID,
		Absent: labels[labelBlobRef+name] != r.Digest.String(),
	}
}

// recordBlob writes down a blob of the layer.
func (s *Store) recordBlob(ctx context.Context, layer, name string, b Blob) error {
	labels, err := blobLabels(name, b)
	if err != nil {
		return err
	}
	var paths []string
	for k := range maps.Keys(labels) {
		paths = append(paths, "labels."+k)
	}
	if _, err := s.store.Snapshots.Update(ctx, snapshots.Info{Name: layer, Labels: labels}, paths...); err != nil {
		return fmt.Errorf("write down blob %s of layer %s: %w", b.Desc.Digest, layer, err)
	}
	return nil
}
