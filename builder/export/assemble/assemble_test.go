package assemble

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func testLayer(text string) Layer {
	return Layer{
		Desc:   ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(text), Size: int64(len(text))},
		DiffID: digest.FromString("diff " + text),
	}
}

func TestDefaultConfig(t *testing.T) {
	t.Parallel()
	img, err := New(Input{Layers: []Layer{testLayer("a")}})
	if err != nil {
		t.Fatal(err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(img.Config.Data, &config); err != nil {
		t.Fatal(err)
	}
	if want := platforms.Normalize(platforms.DefaultSpec()); !reflect.DeepEqual(config.Platform, want) {
		t.Errorf("platform %v, want %v", config.Platform, want)
	}
	if config.Config.WorkingDir != "/" || len(config.Config.Env) != 1 || !strings.HasPrefix(config.Config.Env[0], "PATH=/") {
		t.Errorf("config %+v", config.Config)
	}
	if len(config.History) != 1 || config.History[0].Created != nil {
		t.Errorf("history %+v", config.History)
	}
}

func TestUnknownKeysStay(t *testing.T) {
	t.Parallel()
	img, err := New(Input{Config: []byte(`{"os":"linux","architecture":"amd64","x.y":{"b":1e2,"a":[ ]},"rootfs":{"diff_ids":["junk"]}}`)})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(img.Config.Data, []byte(`"x.y":{"b":1e2,"a":[]}`)) {
		t.Errorf("lost a key: %s", img.Config.Data)
	}
	if bytes.Contains(img.Config.Data, []byte("junk")) {
		t.Errorf("kept the frontend's diff ids: %s", img.Config.Data)
	}
}

func TestHostileConfigs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ config, base, want string }{
		"not JSON":          {config: `{"os":`, want: "image config from the frontend: unexpected end"},
		"null":              {config: `null`, want: "invalid null image config for export"},
		"list":              {config: `[]`, want: "cannot unmarshal array"},
		"no os":             {config: `{"architecture":"amd64"}`, want: "missing os"},
		"no architecture":   {config: `{"os":"linux"}`, want: "missing architecture"},
		"history of text":   {config: `{"os":"linux","architecture":"amd64","history":"x"}`, want: "history"},
		"created yesterday": {config: `{"os":"linux","architecture":"amd64","created":"yesterday"}`, want: "yesterday"},
		"base not JSON":     {config: `{"os":"linux","architecture":"amd64"}`, base: "x", want: "config of the base image"},
		"huge": {
			config: `{"os":"linux","architecture":"amd64","x":"` + strings.Repeat("x", maxDocument) + `"}`,
			want:   "more than an image may have",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			epoch := time.Unix(1, 0)
			_, err := New(Input{Config: []byte(c.config), Base: []byte(c.base), Epoch: &epoch})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestBadLayers(t *testing.T) {
	t.Parallel()
	noDiffID := testLayer("a")
	noDiffID.DiffID = ""
	badDiffID := testLayer("a")
	badDiffID.DiffID = "sha256:../x"
	for name, in := range map[string]Input{
		"no diff id":  {Layers: []Layer{noDiffID}},
		"bad diff id": {Layers: []Layer{badDiffID}},
	} {
		if _, err := New(in); err == nil || !strings.Contains(err.Error(), digest.FromString("a").String()) {
			t.Errorf("%s: error %v doesn't name the layer", name, err)
		}
	}
}

func TestNonDistributable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from string
		urls []string
		in   Input
		want string
	}{
		{ociForeignGzip, []string{"https://x"}, Input{}, ocispec.MediaTypeImageLayerGzip},
		{ociForeignGzip, []string{"https://x"}, Input{Types: Docker}, images.MediaTypeDockerSchema2LayerGzip},
		{ocispec.MediaTypeImageLayerGzip, []string{"https://x"}, Input{NonDistributable: true}, ociForeignGzip},
		{images.MediaTypeDockerSchema2LayerForeign, []string{"https://x"}, Input{NonDistributable: true, Types: Docker},
			images.MediaTypeDockerSchema2LayerForeign},
		{ociForeign, nil, Input{NonDistributable: true}, ocispec.MediaTypeImageLayer},
		{"application/x", []string{"https://x"}, Input{NonDistributable: true}, "application/x"},
		{"application/x", nil, Input{Types: Docker}, "application/x"},
	} {
		l := testLayer("windows")
		l.Desc.MediaType, l.Desc.URLs = c.from, c.urls
		c.in.Layers = []Layer{l}
		img, err := New(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := img.Layers[0]; got.MediaType != c.want || c.in.NonDistributable != (len(got.URLs) > 0) && c.urls != nil {
			t.Errorf("%+v: got %s with %v", c, got.MediaType, got.URLs)
		}
	}
}

// The same input gives the same bytes, and New leaves its input alone.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	a, b := testLayer("a"), testLayer("b")
	b.Desc.Annotations = map[string]string{"keep": "1", "containerd.io/uncompressed": "sha256:x"}
	in := Input{
		Config: []byte(`{"os":"linux","architecture":"amd64","history":[{"created_by":"x"}],"c":1,"b":2,"a":3}`),
		Layers: []Layer{a, b},
	}
	first, err := New(in)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := New(in)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Manifest.Data, again.Manifest.Data) || !bytes.Equal(first.Config.Data, again.Config.Data) {
			t.Fatal("different bytes")
		}
	}
	if len(b.Desc.Annotations) != 2 {
		t.Error("the caller's annotations were changed")
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","architecture":"amd64","history":[{"created_by":"x"},{"empty_layer":true}],"created":null}`))
	f.Add([]byte(`{"OS":"linux","Architecture":"amd64","rootfs":null}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		epoch := time.Unix(0, 0)
		img, err := New(Input{Config: config, Layers: []Layer{testLayer("a"), testLayer("b")}, Epoch: &epoch})
		if err != nil {
			return
		}
		var got ocispec.Image
		if err := json.Unmarshal(img.Config.Data, &got); err != nil {
			t.Fatalf("config can't be read back: %v", err)
		}
		layers := 0
		for _, h := range got.History {
			if !h.EmptyLayer {
				layers++
			}
		}
		if layers != 2 {
			t.Errorf("history accounts for %d of 2 layers: %s", layers, img.Config.Data)
		}
	})
}
