package kit

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestOCIArchive(t *testing.T) {
	packed, err := someTree().packed()
	if err != nil {
		t.Fatal(err)
	}
	i, err := newImage(ocispec.ImageConfig{}, packed)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := ociArchive(i)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		if d, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && d != "" && digest.FromBytes(files[h.Name]).Encoded() != d {
			t.Errorf("%s has other content", h.Name)
		}
	}
	read := func(name string, into any) {
		t.Helper()
		if err := json.Unmarshal(files[name], into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	var index ocispec.Index
	read("index.json", &index)
	var m ocispec.Manifest
	read("blobs/sha256/"+index.Manifests[0].Digest.Encoded(), &m)
	if m.MediaType != ocispec.MediaTypeImageManifest || m.Config.MediaType != ocispec.MediaTypeImageConfig ||
		m.Layers[0].MediaType != ocispec.MediaTypeImageLayerGzip {
		t.Errorf("manifest %+v", m)
	}
	if files["blobs/sha256/"+m.Layers[0].Digest.Encoded()] == nil || files["oci-layout"] == nil {
		t.Error("a file is missing")
	}
	if i.layers[0].MediaType != mediaGzip {
		t.Error("the image itself was changed")
	}
}
