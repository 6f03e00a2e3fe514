package kit

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func someTree() *tree {
	t := &tree{}
	t.file(0o644, "etc/name", []byte("content"))
	t.dirs(0o1777, "tmp")
	t.dirs(0o755, "etc")
	t.link("link", "etc/name")
	t.add(entry{name: "etc/same", mode: 0o644, hardlink: "etc/name"})
	t.add(entry{name: "home/", mode: 0o700, uid: 5, gid: 6})
	return t
}

func TestTar(t *testing.T) {
	packed, err := someTree().packed()
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed.content))
	if err != nil {
		t.Fatal(err)
	}
	archive, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(archive); got != packed.diffID {
		t.Errorf("diff id %s, of the archive %s", packed.diffID, got)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if h.Name == "home/" && (h.Uid != 5 || h.Gid != 6 || h.Mode != 0o700 || !h.ModTime.Equal(layerTime)) {
			t.Errorf("header %+v", h)
		}
	}
	if want := []string{"etc/", "etc/name", "etc/same", "home/", "link", "tmp/"}; !slices.Equal(names, want) {
		t.Errorf("names %v", names)
	}
	if again, err := someTree().packed(); err != nil || again.Digest != packed.Digest {
		t.Errorf("not the same digest again: %v, %v", again.Digest, err)
	}
}

// TestPush pushes an image to a real registry and gets it back.
func TestPush(t *testing.T) {
	tools, err := filepath.Abs("../../../bin/tools")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", os.Getenv("PATH")+":"+tools)
	r, err := startRegistry(t.Context(), filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop()
	packed, err := someTree().packed()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := someTree().plain()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.MediaType, elsewhere.URLs = mediaForeign, []string{"http://" + WebAddress + "/x"}
	i, err := newImage(ocispec.ImageConfig{Cmd: []string{"sh"}}, packed, elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.push(t.Context(), "library/some:tag", i); err != nil {
		t.Fatal(err)
	}
	response, err := http.Get(r.base + "/v2/library/some/manifests/tag")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var got ocispec.Manifest
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Config.Digest != i.config.Digest || len(got.Layers) != 2 || got.Layers[1].URLs[0] != elsewhere.URLs[0] {
		t.Errorf("manifest %+v", got)
	}
	if _, err := r.do(t.Context(), http.MethodGet, "/v2/library/some/manifests/other", "", nil); err == nil {
		t.Error("no error for a tag that is not there")
	}
}

func TestImageHistory(t *testing.T) {
	packed, err := someTree().packed()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		config  ocispec.ImageConfig
		layers  []layer
		history int
	}{
		{ocispec.ImageConfig{}, nil, 0},
		{ocispec.ImageConfig{}, []layer{packed}, 1},
		{ocispec.ImageConfig{Cmd: []string{"sh"}}, []layer{packed}, 2},
	} {
		i, err := newImage(c.config, c.layers...)
		if err != nil {
			t.Fatal(err)
		}
		var got ocispec.Image
		if err := json.Unmarshal(i.config.content, &got); err != nil {
			t.Fatal(err)
		}
		if len(got.History) != c.history || len(got.RootFS.DiffIDs) != len(c.layers) {
			t.Errorf("%d layers: history %v, diff ids %v", len(c.layers), got.History, got.RootFS.DiffIDs)
		}
	}
}

func TestPackage(t *testing.T) {
	files, err := withLibraries(t.Context(), []string{"git"})
	if err != nil || len(files) < 2 {
		t.Fatalf("files %v, %v", files, err)
	}
	name := filepath.Join(t.TempDir(), "git.tar.gz")
	if err := writePackage(name, files); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t.Context(), t.TempDir(), nil, "tar", "-xzvf", name); err != nil || len(out) == 0 {
		t.Errorf("%q, %v", out, err)
	}
	if err := writePackage(name, []string{"/does/not/exist"}); err == nil {
		t.Error("no error for a file that is not there")
	}
}
