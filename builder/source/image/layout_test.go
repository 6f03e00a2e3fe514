package image

import (
	"bytes"
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/session/registry/registrytest"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func parse(id, key, value string) (request, error) {
	return parseRequest(&pb.SourceOp{Identifier: id, Attrs: map[string]string{key: value}}, amd64)
}

// layoutSession offers images as the store "oci:mine".
func layoutSession(t *testing.T, f *fixture, images ...registrytest.Image) string {
	t.Helper()
	cs, err := contentlocal.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	write := func(d digest.Digest, b []byte) {
		desc := ocispec.Descriptor{Digest: d, Size: int64(len(b))}
		if err := content.WriteBlob(context.Background(), cs, d.String(), bytes.NewReader(b), desc); err != nil {
			t.Fatal(err)
		}
	}
	for _, img := range images {
		write(img.Digest(), img.Manifest)
		for d, b := range img.Blobs {
			write(d, b)
		}
	}
	c, _ := sessiontest.Open(t, f.m, "", sessioncontent.NewAttachable(map[string]content.Store{"oci:mine": cs}))
	return c.ID()
}

func TestLayout(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	one, two := registrytest.NewImage(t, amd64, files("a", "amd64")), registrytest.NewImage(t, arm64, files("a", "arm64"))
	index := registrytest.NewIndex(t, one, two)
	id := layoutSession(t, f, one, two, index)
	stranger := layoutSession(t, f)
	job, _ := jobFor(stranger, id)
	for _, tc := range []struct {
		name     string
		platform *ocispec.Platform
		attrs    []string
		want     string
	}{
		{"mine/x@" + index.Digest().String(), nil, nil, "amd64"},
		{"mine@" + index.Digest().String(), &arm64, nil, "arm64"},
		{"mine/x:1@" + two.Digest().String(), &arm64, nil, "arm64"},
		{"else/x@" + one.Digest().String(), nil, []string{pb.AttrOCILayoutStoreID, "mine", pb.AttrOCILayoutSessionID, id}, "amd64"},
	} {
		key, l, err := f.pull(f.op("oci-layout://"+tc.name, tc.platform, tc.attrs...), job)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else if got := f.file(l, "a"); got != tc.want || key.Record.Text != "pulled from "+tc.name {
			t.Errorf("%s: %q, %q", tc.name, got, key.Record.Text)
		}
	}
	src := &pb.SourceOp{Identifier: "oci-layout://mine@" + index.Digest().String()}
	if m, err := f.Meta(t.Context(), job, MetaRequest{Op: src}); err != nil || m.Digest != index.Digest() || !strings.Contains(string(m.Config), "amd64") {
		t.Errorf("meta %+v, %v", m, err)
	}
}

// TestLayoutOfSomebodyElse: what is on the machine already is no answer for a
// session that doesn't have the image.
func TestLayoutOfSomebodyElse(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	img := registrytest.NewImage(t, amd64, files("a", "secret"))
	owner, thief := layoutSession(t, f, img), layoutSession(t, f)
	name := "oci-layout://mine@" + img.Digest().String()
	job, _ := jobFor(owner)
	if _, _, err := f.pull(f.op(name, nil), job); err != nil {
		t.Fatal(err)
	}
	job, _ = jobFor(thief)
	if _, _, err := f.pull(f.op(name, nil), job); !errdefs.IsNotFound(err) {
		t.Errorf("somebody else: %v", err)
	}
	job, _ = jobFor()
	if _, _, err := f.pull(f.op(name, nil), job); !errdefs.IsNotFound(err) {
		t.Errorf("nobody: %v", err)
	}
}

// TestLayoutNamesARegistry: what an image of a client says of a registry isn't
// told to snapshotters, which would fetch from there.
func TestLayoutNamesARegistry(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	hostile := ocispec.Descriptor{Digest: digest.FromString("layer"), Annotations: map[string]string{
		stargzReference: "victim.example/secret:1", stargzDigest: digest.FromString("layer").String(),
		"containerd.io/snapshot/cri.image-ref": "victim.example/secret:1",
		labelGrant:                             "x",
		layer.AnnotationSource:                 "victim.example/secret",
		estargz.TOCJSONDigestAnnotation:        digest.FromString("toc").String(),
		"org.example":                          "kept",
	}}
	job, _ := jobFor()
	p := pinned{image: &image{layers: []ocispec.Descriptor{hostile, {Digest: digest.FromString("plain")}}}}
	got := f.lazyLayers(job, request{layout: &layout{}}, p)
	want := map[string]string{estargz.TOCJSONDigestAnnotation: digest.FromString("toc").String(), "org.example": "kept"}
	if len(got) != 2 || !maps.Equal(got[0].Annotations, want) {
		t.Errorf("layers %+v", got)
	}
	if len(hostile.Annotations) != 7 {
		t.Error("the image itself was changed")
	}
}

// TestLabelsOfLayers: lazy snapshotters are told where a layer is from, each by the
// labels that it knows; others are told nothing.
func TestLabelsOfLayers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	annotated := func(key string) ocispec.Descriptor {
		return ocispec.Descriptor{Digest: digest.FromString(key), Annotations: map[string]string{key: "x"}}
	}
	layers := []ocispec.Descriptor{annotated(estargz.TOCJSONDigestAnnotation), annotated("containerd.io/snapshot/nydus-blob"), annotated(nydusBootstrap), annotated("plain")}
	job, _ := jobFor()
	p := pinned{image: &image{layers: layers, path: []ocispec.Descriptor{{Digest: digest.FromString("manifest")}}}}
	got := f.lazyLayers(job, request{ref: ref{Name: "r.example/a:1", Host: "r.example", Repo: "a"}}, p)
	for i, want := range []struct{ cri, stargz string }{{"r.example/a:1", "r.example/a:1"}, {"r.example/a:1", ""}, {"r.example/a:1", ""}, {"", ""}} {
		if a := got[i].Annotations; a["containerd.io/snapshot/cri.image-ref"] != want.cri || a[stargzReference] != want.stargz {
			t.Errorf("layer %d: %v", i, a)
		}
	}
}
