package assemble

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// goldenCase is the first part of a file in testdata; what follows it is what
// BuildKit 0.33.1 wrote when it was given the same.
type goldenCase struct {
	Docker      bool
	Epoch       *int64
	Annotations map[string]string
	Images      []struct {
		ID           string
		Platform     *ocispec.Platform
		Config, Base json.RawMessage
		Layers       []struct {
			ocispec.Descriptor
			DiffID      digest.Digest
			Created     time.Time
			Description string
		}
	}
}

func TestSameBytesAsBuildKit(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			in, want, _ := strings.Cut(string(data), "\n-- ")
			var c goldenCase
			if err := json.Unmarshal([]byte(in), &c); err != nil {
				t.Fatal(err)
			}
			if got := c.write(t); got != "-- "+want {
				t.Errorf("got\n%s\nwant\n-- %s", got, want)
			}
		})
	}
}

func (c *goldenCase) write(t *testing.T) string {
	types := OCI
	if c.Docker {
		types = Docker
	}
	annotations, err := ParseAnnotations(c.Annotations)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	var root ocispec.Descriptor
	var manifests []ocispec.Descriptor
	for i, image := range c.Images {
		in := c.input(i)
		in.Types = types
		var p ocispec.Platform
		if image.Platform != nil {
			p = platforms.Normalize(*image.Platform)
		} else {
			ps, err := Platforms(map[string][]byte{KeyConfig: image.Config})
			if err != nil {
				t.Fatal(err)
			}
			p = ps[0].Platform
		}
		in.Annotations = annotations.At(OnManifest, p)
		img, err := New(in)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "-- config %s --\n%s\n-- manifest %s --\n%s\n", image.ID, img.Config.Data, image.ID, img.Manifest.Data)
		root = img.Manifest.Desc
		root.Platform = &p
		root.Annotations = annotations.At(OnManifestDescriptor, p)
		manifests = append(manifests, root)
	}
	if len(manifests) > 1 {
		index, err := Index(types, manifests, annotations.OfIndex(OnIndex))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "-- index --\n%s\n", index.Data)
		root = index.Desc
		root.Annotations = annotations.OfIndex(OnIndexDescriptor)
	}
	desc, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "-- descriptor --\n%s\n", desc)
	return out.String()
}

func (c *goldenCase) input(i int) Input {
	in := Input{Config: c.Images[i].Config, Base: c.Images[i].Base}
	if c.Epoch != nil {
		epoch := time.Unix(*c.Epoch, 0).UTC()
		in.Epoch = &epoch
	}
	for _, l := range c.Images[i].Layers {
		in.Layers = append(in.Layers, Layer{Desc: l.Descriptor, DiffID: l.DiffID, Created: l.Created, Description: l.Description})
	}
	return in
}
