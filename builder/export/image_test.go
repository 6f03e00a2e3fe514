package export

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestImage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	base := e.layer(t, nil, map[string]string{"etc/os-release": "ID=test\n"})
	top := e.layer(t, base, map[string]string{"hello": "world"})
	out := e.mustExport(t, Target{Type: "image", Attrs: parse("name=docker.io/library/test:1")}, single(top))

	img, err := e.st.Images.Get(e.ctx, "docker.io/library/test:1")
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	e.read(t, img.Target, &m)
	var config ocispec.Image
	e.read(t, m.Config, &config)
	if len(m.Layers) != 2 || len(config.RootFS.DiffIDs) != 2 || len(config.History) != 2 {
		t.Fatalf("manifest %+v config %+v", m, config)
	}
	if h := config.History[1]; h.CreatedBy != "layer of a test" || !h.Created.Equal(made) || !config.Created.Equal(made) {
		t.Errorf("history %+v, created %v", h, config.Created)
	}
	want := map[string]string{
		"image.name":                   "docker.io/library/test:1",
		"containerimage.digest":        img.Target.Digest.String(),
		"containerimage.config.digest": m.Config.Digest.String(),
	}
	for k, v := range want {
		if out.Response[k] != v {
			t.Errorf("response %s=%s, want %s", k, out.Response[k], v)
		}
	}
	var desc ocispec.Descriptor
	data, err := base64.StdEncoding.DecodeString(out.Response["containerimage.descriptor"])
	if err != nil || json.Unmarshal(data, &desc) != nil || desc.Digest != img.Target.Digest || desc.Platform == nil || desc.Size == 0 {
		t.Errorf("descriptor %s, %v", data, err)
	}
	if out.Descriptor == nil || out.Descriptor.Digest != img.Target.Digest || out.Finalize != nil {
		t.Errorf("outcome %+v", out)
	}
	if d := out.Documents; len(d) != 2 || d[0].Desc.Digest != img.Target.Digest || d[1].Desc.Digest != m.Config.Digest {
		t.Errorf("documents %+v", d)
	}
	e.events.check(t, "exporting layers", "exporting manifest sha256:", "exporting config sha256:", "naming to docker.io/library/test:1")
}

// Where images have no names, an image is made all the same, and is gone when
// the export is.
func TestImageWithoutNames(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.cfg.Images = nil
	top := e.layer(t, nil, map[string]string{"a": "1"})
	out := e.mustExport(t, Target{Type: "image", Attrs: parse("name=x:1,unpack=true")}, single(top))
	if _, err := e.st.Content.Info(e.ctx, out.Descriptor.Digest); err != nil || out.Response["image.name"] != "x:1" {
		t.Errorf("response %v, %v", out.Response, err)
	}
	if all, err := e.st.Images.List(e.ctx); err != nil || len(all) != 0 {
		t.Errorf("images %v, %v", all, err)
	}
	out.Release()
	e.forget(t)
	if _, err := e.st.Content.Info(e.ctx, out.Descriptor.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("the manifest is still there: %v", err)
	}
}

// The image alone keeps all its content, and its snapshots when it is unpacked;
// without it nothing stays.
func TestImageKeepsItsContent(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	top := e.layer(t, e.layer(t, nil, map[string]string{"a": "1"}), map[string]string{"b": "2"})
	out := e.mustExport(t, Target{Type: "image", Attrs: parse("name=x:1,unpack=true")}, single(top))
	out.Release()
	out.Release() // twice is fine
	e.forget(t)

	img, err := e.st.Images.Get(e.ctx, "x:1")
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	e.read(t, img.Target, &m)
	var config ocispec.Image
	e.read(t, m.Config, &config)
	for _, l := range m.Layers {
		if _, err := e.st.Content.Info(e.ctx, l.Digest); err != nil {
			t.Errorf("layer is gone: %v", err)
		}
	}
	chain := identity.ChainID(config.RootFS.DiffIDs).String()
	if _, err := e.st.Snapshots.Stat(e.ctx, chain); err != nil {
		t.Fatalf("snapshot is gone: %v", err)
	}
	e.events.check(t, "unpacking to x:1")

	if err := e.st.Images.Delete(e.ctx, "x:1", images.SynchronousDelete()); err != nil {
		t.Fatal(err)
	}
	e.forget(t)
	if _, err := e.st.Content.Info(e.ctx, img.Target.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("manifest stays: %v", err)
	}
	if _, err := e.st.Snapshots.Stat(e.ctx, chain); !errdefs.IsNotFound(err) {
		t.Errorf("snapshot stays: %v", err)
	}
}

// What was unpacked is what containerd would start a container from.
func TestUnpackedTree(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	top := e.layer(t, e.layer(t, nil, map[string]string{"a": "1", "both": "old"}), map[string]string{"b": "2", "both": "new"})
	out := e.mustExport(t, Target{Type: "image", Attrs: parse("name=x,unpack=")}, single(top))
	ids, err := (&images.Image{Target: *out.Descriptor}).RootFS(e.ctx, e.st.Content, nil)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := e.st.Snapshots.View(e.ctx, "look", identity.ChainID(ids).String())
	if err != nil {
		t.Fatal(err)
	}
	err = mount.WithReadonlyTempMount(e.ctx, mounts, func(root string) error {
		wantFiles(t, root, map[string]string{"a": "1", "b": "2", "both": "new"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A tree that came from an image has the right snapshots: nothing is unpacked.
func TestUnpackUsesSnapshotsAsTheyLie(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.mustExport(t, Target{Type: "image", Attrs: parse("name=x,unpack=true")}, single(e.layer(t, nil, map[string]string{"a": "1"})))
	ids, err := (&images.Image{Target: *first.Descriptor}).RootFS(e.ctx, e.st.Content, nil)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := e.layers.Open(e.ctx, identity.ChainID(ids).String())
	if err != nil {
		t.Fatal(err)
	}
	e.events = recorder{}
	e.mustExport(t, Target{Type: "image", Attrs: parse("name=y,unpack=true")}, single(pulled))
	for _, id := range e.events.items {
		if strings.HasPrefix(id, "unpacking") || strings.HasPrefix(id, "extracting") {
			t.Errorf("%s", id)
		}
	}
}

// TestUnnamedImages: where nobody else uses the store, images without a name are not
// kept in it.
func TestUnnamedImages(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.cfg.Unnamed = false
	l := e.layer(t, nil, map[string]string{"a": "1"})
	for _, name := range []string{"", "a:1"} {
		attrs := parse("dangling-name-prefix=<none>,unpack=true")
		attrs["name"] = name
		out := e.mustExport(t, Target{Type: "image", Attrs: attrs}, single(l))
		if !strings.Contains(out.Response["image.name"], "<none>@sha256:") {
			t.Errorf("%q: the response names %q", name, out.Response["image.name"])
		}
	}
	all, err := e.st.Images.List(e.ctx)
	if err != nil || len(all) != 1 || !strings.HasSuffix(all[0].Name, "a:1") {
		t.Errorf("images %+v, %v", all, err)
	}
}

func TestImageNames(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.layer(t, nil, map[string]string{"a": "1"})
	for _, c := range []struct{ name, attrs, frontend, want string }{
		{attrs: "dangling-name-prefix=<none>", want: "<none>@D"},
		{name: "a:1", attrs: "dangling-name-prefix=<none>", want: "a:1 <none>@D"},
		{name: "b:1", attrs: "dangling-name-prefix=<none>,danging-name-empty-only=true", want: "b:1"},
		{name: "c:1,d:2", attrs: "name-canonical=true", want: "c:1 c:1@D d:2 d:2@D"},
		{name: "e@sha256:1", attrs: "name-canonical=true", want: "e@sha256:1"},
		{name: "*", frontend: "f:1,g:1", want: "f:1 g:1"},
		{name: "h", attrs: "store=false", want: ""},
		{want: ""},
	} {
		t.Run(c.name+c.attrs, func(t *testing.T) {
			attrs := parse(c.attrs)
			if c.name != "" {
				attrs["name"] = c.name
			}
			r := single(l)
			if c.frontend != "" {
				r.Metadata["image.name"] = []byte(c.frontend)
			}
			out := e.mustExport(t, Target{Type: "image", Attrs: attrs}, r)
			all, err := e.st.Images.List(e.ctx)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, img := range all {
				if img.Target.Digest.String() != out.Response["containerimage.digest"] {
					t.Errorf("%s has another target", img.Name)
				}
				got = append(got, strings.ReplaceAll(img.Name, out.Response["containerimage.digest"], "D"))
				if err := e.st.Images.Delete(e.ctx, img.Name); err != nil {
					t.Fatal(err)
				}
			}
			want := strings.Fields(c.want)
			if !sameSet(got, want) {
				t.Errorf("names %q, want %q", got, want)
			}
		})
	}
}

func TestBadNames(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.layer(t, nil, map[string]string{"a": "1"})
	for _, c := range []struct{ name, push, want string }{
		{"a,,b", "false", "empty image name"},
		{",", "false", "empty image name"},
		{"*", "false", "needs a frontend that names the image"},
		{"UPPER", "true", "failed to push UPPER: invalid reference format"},
	} {
		_, err := e.export(t, Target{Type: "image", Attrs: map[string]string{"name": c.name, "push": c.push}}, single(l))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want %q", c.name, err, c.want)
		}
	}
	all, _ := e.st.Images.List(e.ctx)
	if len(all) != 0 {
		t.Errorf("images were made: %v", all)
	}
}

// An image takes over the name of another one.
func TestRename(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, text := range []string{"first", "second"} {
		out := e.mustExport(t, Target{Type: "image", Attrs: parse("name=x,source-date-epoch=1700000000")},
			single(e.layer(t, nil, map[string]string{"a": text})))
		img, err := e.st.Images.Get(e.ctx, "x")
		if err != nil || img.Target.Digest.String() != out.Response["containerimage.digest"] {
			t.Errorf("%+v, %v", img, err)
		}
		if img.UpdatedAt.Unix() != 1700000000 {
			t.Errorf("record of %v, want the epoch", img.UpdatedAt)
		}
	}
}

func TestMultiPlatform(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := multi(e.layer(t, nil, map[string]string{"a": "amd64"}), e.layer(t, nil, map[string]string{"a": "arm64"}))
	r.Metadata["annotation-index.i"] = []byte("frontend")
	out := e.mustExport(t, Target{Type: "image", Attrs: map[string]string{
		"name": "x", "unpack": "true", "annotation-index.i": "target", "annotation-manifest[linux/arm64].m": "1",
		"annotation-manifest-descriptor.d": "2", "annotation-index-descriptor.r": "3",
	}}, r)
	if _, ok := out.Response["containerimage.config.digest"]; ok {
		t.Error("an index has no config")
	}
	if out.Descriptor.Annotations["r"] != "3" {
		t.Errorf("root %+v", out.Descriptor)
	}
	var index ocispec.Index
	e.read(t, *out.Descriptor, &index)
	if len(index.Manifests) != 2 || index.Manifests[1].Platform.Architecture != "arm64" || index.Annotations["i"] != "frontend" ||
		index.Manifests[0].Annotations["d"] != "2" {
		t.Fatalf("index %+v", index)
	}
	for i, want := range []string{"", "1"} {
		var m ocispec.Manifest
		e.read(t, index.Manifests[i], &m)
		if m.Annotations["m"] != want {
			t.Errorf("manifest %d: annotations %v", i, m.Annotations)
		}
	}
	e.events.check(t, "exporting manifest list sha256:")
	out.Release()
	e.forget(t)
	for _, m := range index.Manifests {
		var manifest ocispec.Manifest
		e.read(t, m, &manifest)
		for _, d := range append(manifest.Layers, manifest.Config) {
			if _, err := e.st.Content.Info(e.ctx, d.Digest); err != nil {
				t.Error(err)
			}
		}
	}
}

// Exports of the same result don't disturb each other.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.layer(t, nil, map[string]string{"a": "1"})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			attrs := parse("unpack=true,source-date-epoch=1")
			attrs["name"] = fmt.Sprintf("shared,own%d", i)
			x, err := e.Resolve(e.ctx, Target{Type: "image", Attrs: attrs})
			if err != nil {
				t.Error(err)
				return
			}
			out, err := x.Export(context.Background(), e.job, single(l))
			if err != nil {
				t.Error(err)
				return
			}
			out.Release()
		})
	}
	wg.Wait()
	e.forget(t)
	all, err := e.st.Images.List(e.ctx)
	if err != nil || len(all) != 17 {
		t.Fatalf("%d images, %v", len(all), err)
	}
	for _, img := range all {
		complete(t, e.ctx, e.st.Content, img.Target)
	}
}

func TestRewriteTimestamp(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	target := Target{Type: "image", Attrs: parse("rewrite-timestamp=true")}
	e.mustExport(t, target, single(nil)) // without an epoch there is nothing to do
	if !strings.Contains(e.events.logs.String(), "has no effect") {
		t.Error("nobody was told")
	}
	base := e.layer(t, nil, map[string]string{"base": "1"})
	top := e.layer(t, base, map[string]string{"top": "2"})
	const baseConfig = `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:x"]}}`
	var plain, rewritten ocispec.Manifest
	e.read(t, *e.mustExport(t, Target{Type: "image"}, single(top)).Descriptor, &plain)
	result := with(with(single(top), "source.date.epoch", "1000"), "containerimage.base.config", baseConfig)
	e.read(t, *e.mustExport(t, target, result).Descriptor, &rewritten)
	if len(rewritten.Layers) != 2 || rewritten.Layers[0].Digest != plain.Layers[0].Digest || rewritten.Layers[1].Digest == plain.Layers[1].Digest {
		t.Errorf("layers %v, without rewriting %v", rewritten.Layers, plain.Layers)
	}
	for i, want := range []string{"", "1000"} {
		if got := rewritten.Layers[i].Annotations["buildkit/rewritten-timestamp"]; got != want {
			t.Errorf("layer %d is annotated with %q, want %q", i, got, want)
		}
	}
	var config ocispec.Image
	e.read(t, rewritten.Config, &config)
	info, err := e.st.Content.Info(e.ctx, rewritten.Layers[1].Digest)
	if err != nil || config.RootFS.DiffIDs[1].String() != info.Labels["containerd.io/uncompressed"] {
		t.Errorf("diff ID %s, blob %v, %v", config.RootFS.DiffIDs[1], info, err)
	}
	if _, err := e.export(t, target, with(result, "containerimage.base.config", "[")); err == nil {
		t.Error("a base config that is none was accepted")
	}
}

func TestEmptyImage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	out := e.mustExport(t, Target{Type: "image", Attrs: parse("name=x,unpack=true")}, single(nil))
	var m ocispec.Manifest
	e.read(t, *out.Descriptor, &m)
	if len(m.Layers) != 0 {
		t.Errorf("%+v", m)
	}
}

func TestHostileResults(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.layer(t, nil, map[string]string{"a": "1"})
	for name, c := range map[string]struct {
		typ  string
		r    Result
		want string
	}{
		"config is garbage":    {"image", with(single(l), "containerimage.config", "{"), "image config from the frontend"},
		"config is null":       {"oci", with(single(l), "containerimage.config", "null"), "image config from the frontend"},
		"base is garbage":      {"image", with(single(l), "containerimage.base.config", "["), "config of the base image"},
		"no platforms":         {"image", without(multi(l, l), "refs.platforms"), "missing platforms mapping"},
		"no platforms (files)": {"tar", without(multi(l, l), "refs.platforms"), "missing platforms mapping"},
		"platforms of nobody":  {"image", with(multi(l, l), "refs.platforms", `{"Platforms":[{"ID":"x","Platform":{"os":"a","architecture":"b"}}]}`), "failed to find ref for ID x"},
		"many for one tree": {"image", with(single(l), "refs.platforms", string(multi(l, l).Metadata["refs.platforms"])),
			"cannot export multiple platforms"},
		"bad epoch":                {"image", with(single(l), "source.date.epoch", "1e9"), "invalid SOURCE_DATE_EPOCH from frontend"},
		"epoch out of time":        {"image", with(single(l), "source.date.epoch", "99999999999999"), "too far from 1970"},
		"annotation of a platform": {"image", with(multi(l, l), "annotation[linux/s390x].a", "b"), "no platform linux/s390x"},
		"annotation of an index":   {"image", with(single(l), "annotation-index.a", "b"), "not supported for single platform"},
	} {
		t.Run(name, func(t *testing.T) {
			id, _ := e.fileClient(t)
			_, err := e.export(t, Target{Type: c.typ, Session: id, Attrs: parse("name=x")}, c.r)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if all, _ := e.st.Images.List(e.ctx); len(all) != 0 {
		t.Errorf("images were made: %v", all)
	}
	all, err := e.st.Leases.List(e.ctx, `labels."kiln.build/export"==true`)
	if err != nil || len(all) != 0 {
		t.Errorf("leases stay: %v, %v", all, err)
	}
}

func with(r Result, key, value string) Result {
	r.Metadata[key] = []byte(value)
	return r
}

func without(r Result, key string) Result {
	delete(r.Metadata, key)
	return r
}

func sameSet(a, b []string) bool {
	m := map[string]int{}
	for _, s := range a {
		m[s]++
	}
	for _, s := range b {
		m[s]--
	}
	for _, n := range m {
		if n != 0 {
			return false
		}
	}
	return true
}
