package export

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	sessioncontent "github.com/moby/buildkit/session/content"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/layer"
)

// contentDir is a content store as clients have it.
func contentDir(t *testing.T) content.Store {
	t.Helper()
	cs, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

// imported reads an archive as containerd does. It gives the archive's index.
func imported(t *testing.T, data []byte) (ocispec.Index, content.Store) {
	t.Helper()
	cs := contentDir(t)
	desc, err := archive.ImportIndex(context.Background(), cs, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	blob, err := content.ReadBlob(context.Background(), cs, desc)
	if err != nil || json.Unmarshal(blob, &index) != nil {
		t.Fatalf("%s: %v", blob, err)
	}
	return index, cs
}

// complete fails unless the store has all that the image needs, unspoilt.
func complete(t *testing.T, ctx context.Context, cs content.Store, desc ocispec.Descriptor) {
	t.Helper()
	check := func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		data, err := content.ReadBlob(ctx, cs, desc)
		if err == nil && (digest.FromBytes(data) != desc.Digest || int64(len(data)) != desc.Size) {
			err = fmt.Errorf("%s is spoilt", desc.Digest)
		}
		return nil, err
	}
	if err := images.Walk(ctx, images.Handlers(images.HandlerFunc(check), images.ChildrenHandler(cs)), desc); err != nil {
		t.Error(err)
	}
}

func TestOCIArchive(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	id, file := e.fileClient(t)
	r := multi(e.layer(t, nil, map[string]string{"a": "amd64"}), e.layer(t, nil, map[string]string{"a": "arm64"}))
	out := e.mustExport(t, Target{Type: "oci", Session: id, Attrs: parse("name=test,source-date-epoch=1700000000")}, r)
	index, cs := imported(t, file.Bytes())
	if len(index.Manifests) != 1 {
		t.Fatalf("index %+v", index)
	}
	root := index.Manifests[0]
	for k, want := range map[string]string{
		"org.opencontainers.image.created":  "2023-11-14T22:13:20Z",
		"org.opencontainers.image.ref.name": "latest",
		"io.containerd.image.name":          "docker.io/library/test:latest",
	} {
		if root.Annotations[k] != want {
			t.Errorf("%s=%s, want %s", k, root.Annotations[k], want)
		}
	}
	complete(t, context.Background(), cs, root)
	if out.Response["image.name"] != "docker.io/library/test:latest" || out.Response["containerimage.digest"] != root.Digest.String() {
		t.Errorf("response %v", out.Response)
	}
	if file.metadata["containerimage.digest"] != root.Digest.String() {
		t.Errorf("the client was told %v", file.metadata)
	}
	names := tarNames(t, file.Bytes())
	if slices.Contains(names, "manifest.json") || !slices.Contains(names, "oci-layout") || !slices.Contains(names, "index.json") {
		t.Errorf("files %q", names)
	}
	e.events.check(t, "sending tarball", "exporting manifest list")
}

// The same result makes the same archive.
func TestArchiveIsDeterministic(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.layer(t, e.layer(t, nil, map[string]string{"a": "1"}), map[string]string{"b": "2"})
	var first []byte
	for range 3 {
		id, file := e.fileClient(t)
		e.mustExport(t, Target{Type: "docker", Session: id, Attrs: parse("name=x,source-date-epoch=1")}, single(l))
		if first == nil {
			first = bytes.Clone(file.Bytes())
		}
		if !bytes.Equal(first, file.Bytes()) {
			t.Fatal("another archive")
		}
	}
}

func TestDockerArchive(t *testing.T) {
	t.Parallel()
	for _, types := range []string{"true", "false"} {
		for _, compression := range []string{"gzip", "uncompressed"} {
			t.Run(types+" "+compression, func(t *testing.T) {
				t.Parallel()
				e := newEnv(t)
				id, file := e.fileClient(t)
				l := e.layer(t, e.layer(t, nil, map[string]string{"a": "1"}), map[string]string{"b": "2"})
				e.mustExport(t, Target{Type: "docker", Session: id,
					Attrs: map[string]string{"name": "x:1,y/z", "oci-mediatypes": types, "compression": compression}}, single(l))
				opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file.Bytes())), nil }
				for _, n := range []string{"docker.io/library/x:1", "docker.io/y/z:latest"} {
					tag, err := name.NewTag(n)
					if err != nil {
						t.Fatal(err)
					}
					img, err := tarball.Image(opener, &tag)
					if err != nil {
						t.Fatal(err)
					}
					if err := validate.Image(img); err != nil {
						t.Error(err)
					}
				}
				index, cs := imported(t, file.Bytes())
				if len(index.Manifests) != 2 || index.Manifests[0].Digest != index.Manifests[1].Digest {
					t.Errorf("index %+v", index)
				}
				complete(t, context.Background(), cs, index.Manifests[0])
			})
		}
	}
}

func TestDockerArchiveHasOnePlatform(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	id, _ := e.fileClient(t)
	_, err := e.export(t, Target{Type: "docker", Session: id}, multi(nil, nil))
	if err == nil || !strings.HasPrefix(err.Error(), "docker exporter does not currently support exporting manifest lists") {
		t.Error(err)
	}
}

func TestBadArchiveName(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	id, _ := e.fileClient(t)
	for attr, frontend := range map[string]string{"UPPER": "", "*": "UPPER"} {
		_, err := e.export(t, Target{Type: "oci", Session: id, Attrs: parse("name=" + attr)}, with(single(nil), "image.name", frontend))
		if err == nil || !strings.HasPrefix(err.Error(), "failed to parse UPPER") {
			t.Error(err)
		}
	}
}

func TestCompressions(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.layer(t, nil, map[string]string{"a": strings.Repeat("text ", 1000), "b/": ""})
	for _, c := range []struct{ attrs, mediaType string }{
		{"force-compression=false", "application/vnd.oci.image.layer.v1.tar+gzip"},
		{"compression=gzip,compression-level=9", "application/vnd.oci.image.layer.v1.tar+gzip"},
		{"compression=zstd,compression-level=1", "application/vnd.oci.image.layer.v1.tar+zstd"},
		{"compression=uncompressed", "application/vnd.oci.image.layer.v1.tar"},
		{"compression=estargz", "application/vnd.oci.image.layer.v1.tar+gzip"},
		{"compression=gzip,oci-mediatypes=false", images.MediaTypeDockerSchema2LayerGzip},
		{"compression=zstd,oci-mediatypes=false", images.MediaTypeDockerSchema2LayerZstd},
	} {
		t.Run(c.attrs, func(t *testing.T) {
			id, file := e.fileClient(t)
			out := e.mustExport(t, Target{Type: "oci", Session: id, Attrs: parse(c.attrs)}, single(l))
			_, cs := imported(t, file.Bytes())
			complete(t, context.Background(), cs, *out.Descriptor)
			var m ocispec.Manifest
			e.read(t, *out.Descriptor, &m)
			if m.Layers[0].MediaType != c.mediaType {
				t.Errorf("media type %s", m.Layers[0].MediaType)
			}
			toc := m.Layers[0].Annotations["containerd.io/snapshot/stargz/toc.digest"] != ""
			if toc != strings.Contains(c.attrs, "estargz") {
				t.Errorf("annotations %v", m.Layers[0].Annotations)
			}
		})
	}
}

// An image's layer keeps its blob unless it is forced into another type.
func TestForcedCompression(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.mustExport(t, Target{Type: "image", Attrs: parse("name=x")}, single(e.layer(t, nil, map[string]string{"a": "1"})))
	var m ocispec.Manifest
	e.read(t, *first.Descriptor, &m)
	diffIDs, err := (&images.Image{Target: *first.Descriptor}).RootFS(e.ctx, e.st.Content, nil)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := e.layers.Unpack(e.ctx, layer.Image{Layers: m.Layers, DiffIDs: diffIDs}, e.job.Progress)
	if err != nil {
		t.Fatal(err)
	}
	for attrs, want := range map[string]string{
		"compression=zstd":                    "gzip",
		"compression=zstd,force-compression=": "zstd",
	} {
		id, _ := e.fileClient(t)
		out := e.mustExport(t, Target{Type: "oci", Session: id, Attrs: parse(attrs)}, single(pulled))
		e.read(t, *out.Descriptor, &m)
		if !strings.HasSuffix(m.Layers[0].MediaType, "+"+want) {
			t.Errorf("%s: %s", attrs, m.Layers[0].MediaType)
		}
	}
}

func TestArchiveIntoContentStore(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	cs := contentDir(t)
	id := e.client(t, sessioncontent.NewAttachable(map[string]content.Store{"export": cs}))
	shared := e.layer(t, nil, map[string]string{"a": "1"})
	r := multi(shared, e.layer(t, shared, map[string]string{"b": "2"}))
	for range 2 { // the second time everything is there
		out := e.mustExport(t, Target{Type: "oci", Session: id, Attrs: parse("tar=false")}, r)
		complete(t, context.Background(), cs, *out.Descriptor)
	}
	e.events.check(t, "sending content")
}

// A client that has the file already is no reason to fail.
func TestClientHasTheFile(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	id, file := e.fileClient(t)
	file.refuse = true
	l := e.layer(t, nil, map[string]string{"a": strings.Repeat("x", 1<<20)})
	for _, typ := range []string{"oci", "docker"} {
		out := e.mustExport(t, Target{Type: typ, Session: id}, single(l))
		if out.Response["containerimage.digest"] == "" {
			t.Errorf("%s: response %v", typ, out.Response)
		}
	}
}

func TestNoClient(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	id := e.client(t) // offers nothing
	for _, typ := range []string{"oci", "docker", "local", "tar"} {
		for _, attrs := range []string{"", "tar=false"} {
			if _, err := e.export(t, Target{Type: typ, Session: id, Attrs: parse(attrs)}, single(nil)); err == nil {
				t.Errorf("%s %s: no error", typ, attrs)
			}
		}
	}
	all, err := e.st.Leases.List(e.ctx, `labels."kiln.build/export"==true`)
	if err != nil || len(all) != 0 {
		t.Errorf("leases stay: %v, %v", all, err)
	}
}

func tarNames(t *testing.T, data []byte) (names []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}
