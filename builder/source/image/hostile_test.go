package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/session/registry/registrytest"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// edited pushes an image whose manifest and config a test has changed.
func edited(t *testing.T, srv *registrytest.Server, tag string, edit func(*ocispec.Manifest, *ocispec.Image)) {
	t.Helper()
	img := registrytest.NewImage(t, amd64, files("a", "1"), files("b", "2"))
	var m ocispec.Manifest
	var cfg ocispec.Image
	for _, err := range []error{json.Unmarshal(img.Manifest, &m), json.Unmarshal(img.Blobs[m.Config.Digest], &cfg)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	edit(&m, &cfg)
	b := encode(t, cfg)
	m.Config.Digest, m.Config.Size = digest.FromBytes(b), int64(len(b))
	img.Blobs[m.Config.Digest] = b
	img.Manifest = encode(t, m)
	srv.Push(nobody, "x", tag, img)
}

func TestImagesThatLie(t *testing.T) {
	t.Parallel()
	srv := registrytest.Start(t, registrytest.Options{})
	for name, tc := range map[string]struct {
		edit func(*ocispec.Manifest, *ocispec.Image)
		want string
	}{
		"wrong diff id": {func(_ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs[1] = digest.FromString("else")
		}, "the image's config says " + digest.FromString("else").String()},
		"malformed diff id": {func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[0] = "sha256:../../x" }, "diff ID"},
		"too few diff ids": {func(_ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1]
		}, "2 layers, the config 1"},
		"wrong layer size": {func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[1].Size++ }, "blob sha256:"},
		"layer type":       {func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].MediaType = "text/html" }, "text/html"},
		"artifact": {func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json"
		}, "is no image to run"},
		"huge config": {func(_ *ocispec.Manifest, c *ocispec.Image) {
			c.Author = strings.Repeat("x", maxDocument)
		}, "at most"},
	} {
		tag := strings.ReplaceAll(name, " ", "-")
		edited(t, srv, tag, tc.edit)
		f := newFixture(t)
		job, _ := jobFor()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		op := f.op("docker-image://"+srv.Host+"/x:"+tag, nil)
		_, err := op.Key(ctx, job)
		if err == nil {
			_, err = op.Run(f.leased(), job, nil)
		}
		cancel()
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), srv.Host+"/x:"+tag) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	const index, manifest = ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest
	cfg := `"config":{"digest":"sha256:` + strings.Repeat("a", 64) + `"}`
	for raw, want := range map[string]string{
		`{"manifests":[]}`:                             index,
		`{` + cfg + `,"layers":[]}`:                    manifest,
		`{"mediaType":"` + index + `","manifests":[]}`: index,
		`{"manifests":[],` + cfg + `}`:                 "both an index and a manifest",
		`{"manifests":[],"layers":[]}`:                 "both an index and a manifest",
		`{"fsLayers":[]}`:                              "schema 1",
		`{}`:                                           "neither",
		`[]`:                                           "neither",
		`x`:                                            "neither",
		`{"mediaType":"text/html",` + cfg + `}`:        "text/html",
		`{"mediaType":"` + index + `",` + cfg + `}`: "neither",
	} {
		_, kind, err := parseDocument([]byte(raw), "")
		if got := fmt.Sprint(kind, err); !strings.Contains(got, want) || (err == nil) != (want == index || want == manifest) {
			t.Errorf("%s: %s", raw, got)
		}
	}
	if _, _, err := parseDocument([]byte(`{"manifests":[]}`), manifest); err == nil {
		t.Error("an index that was said to be a manifest")
	}
	if _, _, err := parseDocument([]byte(`{"mediaType":"`+index+`","manifests":[]}`), manifest); err == nil {
		t.Error("an index that was said to be a manifest, and says it is an index")
	}
}

// TestRegistryThatLies gets other content than it asked for, in all places.
func TestRegistryThatLies(t *testing.T) {
	t.Parallel()
	srv := registrytest.Start(t, registrytest.Options{})
	img := registrytest.NewImage(t, amd64, files("a", "1"))
	srv.Push(nobody, "x", "1", img)
	for _, part := range []string{"/manifests/sha256:", "/blobs/"} {
		f := newFixture(t)
		proxy := registrytest.StartProxy(t, srv)
		proxy.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, part) {
				return false
			}
			fmt.Fprint(w, strings.Repeat("not what you asked for ", 100))
			return true
		}
		job, _ := jobFor()
		_, _, err := f.pull(f.op("docker-image://"+proxy.Host+"/x:1", nil), job)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "is not what its digest says") {
			t.Errorf("%s: %v", part, err)
		}
		left, err := f.store.Content.ListStatuses(f.store.Context(t.Context()))
		if err != nil || len(left) != 0 {
			t.Errorf("%s: ingests are left: %v, %v", part, left, err)
		}
	}
}

func TestBrokenTransfersGoOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	random := make([]byte, 3<<20)
	for i := range random {
		random[i] = byte(i * i >> 3 * (i >> 8))
	}
	srv.Push(nobody, "x", "1", registrytest.NewImage(t, amd64, files("a", string(random))))
	proxy := registrytest.StartProxy(t, srv)
	var cut atomic.Int64
	proxy.Answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") || cut.Add(1) > 6 {
			return false
		}
		req, _ := http.NewRequestWithContext(r.Context(), r.Method, srv.URL+r.URL.Path, nil)
		req.Header = r.Header.Clone()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.CopyN(w, resp.Body, resp.ContentLength/2)
		panic(http.ErrAbortHandler)
	}
	job, _ := jobFor()
	_, l, err := f.pull(f.op("docker-image://"+proxy.Host+"/x:1", nil), job)
	if err != nil || f.file(l, "a") != string(random) {
		t.Fatalf("%v", err)
	}
	if cut.Load() < 6 {
		t.Errorf("%d requests", cut.Load())
	}
}

// TestSpoiltRest: what an earlier transfer has left may be wrong.
func TestSpoiltRest(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	img := registrytest.NewImage(t, amd64, files("a", strings.Repeat("12345", 1000)))
	srv.Push(nobody, "x", "1", img)
	ctx := f.store.Context(t.Context())
	for d, b := range img.Blobs {
		for _, mediaType := range []string{ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip} {
			desc := ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
			w, err := content.OpenWriter(ctx, f.store.Content, content.WithRef(remotes.MakeRefKey(ctx, desc)), content.WithDescriptor(desc))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte("garbage")); err != nil {
				t.Fatal(err)
			}
			w.Close()
		}
	}
	job, _ := jobFor()
	if _, l, err := f.pull(f.op("docker-image://"+srv.Host+"/x:1", nil), job); err != nil || len(f.file(l, "a")) != 5000 {
		t.Errorf("%v", err)
	}
}

// TestLayerAsConfig: a manifest may name anything that is on the machine.
func TestLayerAsConfig(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	big := make([]byte, maxDocument+1)
	desc := ocispec.Descriptor{Digest: digest.FromBytes(big), Size: int64(len(big))}
	if err := content.WriteBlob(f.leased(), f.store.Content, "big", bytes.NewReader(big), desc); err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageConfig, Digest: desc.Digest, Size: 100,
	}}
	id := layoutSession(t, f, registrytest.Image{Manifest: encode(t, m), Type: m.MediaType})
	job, _ := jobFor(id)
	_, _, err := f.pull(f.op("oci-layout://mine@"+digest.FromBytes(encode(t, m)).String(), nil), job)
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ id, key, value string }{
		{"docker-image://docker.io/UPPER:1", "", ""},
		{"docker-image://", "", ""},
		{"docker-image://a:b:c", "", ""},
		{"docker-image://-x", "", ""},
		{"docker-image://a@sha256:12", "", ""},
		{"docker-image://a", "image.resolvemode", "maybe"},
		{"docker-image://a", "image.layerlimit", "-1"},
		{"docker-image://a", "image.layerlimit", "x"},
		{"docker-image://a", "image.checksum", "md5:1"},
		{"docker-image://a", "image.recordtype", "x"},
		{"oci-layout://store/a", "", ""},
		{"oci-layout://store/a@sha256:12", "", ""},
		{"oci-layout://@sha256:" + strings.Repeat("a", 64), "", ""},
	} {
		if _, err := parse(tc.id, tc.key, tc.value); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", tc, err)
		}
	}
	for in, want := range map[string]string{
		"alpine": "docker.io/library/alpine:latest", "docker.io/library/alpine:3": "docker.io/library/alpine:3",
		"localhost:5000/a/b":                    "localhost:5000/a/b:latest",
		"a@sha256:" + strings.Repeat("a", 64):   "docker.io/library/a@sha256:" + strings.Repeat("a", 64),
		"a:1@sha256:" + strings.Repeat("a", 64): "docker.io/library/a:1@sha256:" + strings.Repeat("a", 64),
	} {
		if req, err := parse("docker-image://"+in, "", ""); err != nil || req.String() != want {
			t.Errorf("%s: %v, %v", in, req, err)
		}
	}
}
