package image

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/session/registry/registrytest"
	"github.com/kiln-build/kiln/builder/store/host"
	"github.com/kiln-build/kiln/builder/store/storetest"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestPull(t *testing.T) {
	t.Parallel()
	testPull(t, newFixture(t))
}

func TestPullToContainerd(t *testing.T) {
	t.Parallel()
	st, err := host.Open(t.Context(), host.Config{Address: storetest.Containerd(t), Namespace: "k8s.io"})
	if err != nil {
		t.Fatal(err)
	}
	testPull(t, newFixtureOn(t, st))
}

func testPull(t *testing.T, f *fixture) {
	srv := registrytest.Start(t, registrytest.Options{})
	img := registrytest.NewImage(t, amd64, files("a", "1", "b", "1"), files("b", "2"))
	d := srv.Push(nobody, "lib/x", "1", img)
	job, progress := jobFor()
	key, l, err := f.pull(f.op("docker-image://"+srv.Host+"/lib/x:1", nil), job)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.file(l, "a") + f.file(l, "b"); got != "12" {
		t.Errorf("content %q", got)
	}
	if want := "pulled from " + srv.Host + "/lib/x:1@" + d.String(); key.Record.Text != want {
		t.Errorf("description %q, want %q", key.Record.Text, want)
	}
	if key.Digest == "" || key.Inputs != nil {
		t.Errorf("key %+v", key)
	}
	if progress.with("resolve "+srv.Host+"/lib/x:1@sha256:") != 1 || progress.with("extracting sha256:") < 2 || progress.with("sha256:") != 2 {
		t.Errorf("progress %q", progress.ids)
	}
	if l.Description != "layer 1" {
		t.Errorf("layer is described as %q", l.Description)
	}

	// the same again, under another tag, fetches no layer
	srv.Push(nobody, "lib/y", "other", img)
	job, progress = jobFor()
	again, l2, err := f.pull(f.op("docker-image://"+srv.Host+"/lib/y:other", nil), job)
	if err != nil || again.Digest != key.Digest || l2.Name != l.Name {
		t.Errorf("under another tag: %v, %v, %v", again.Digest, l2, err)
	}
	if progress.with("sha256:") != 0 || progress.with("extracting") != 0 {
		t.Errorf("fetched again: %q", progress.ids)
	}
}

func TestScratchImage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	srv.Push(nobody, "empty", "latest", registrytest.NewImage(t, amd64))
	job, _ := jobFor()
	if _, l, err := f.pull(f.op("docker-image://"+srv.Host+"/empty", nil), job); err != nil || l != nil {
		t.Errorf("%v, %v", l, err)
	}
}

func TestPlatforms(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	var all []registrytest.Image
	for _, p := range []ocispec.Platform{amd64, arm64, armv6, armv7} {
		img := registrytest.NewImage(t, p, files("p", p.Architecture+p.Variant))
		srv.Push(nobody, "x", "", img)
		all = append(all, img)
	}
	unknown := all[0]
	unknown.Platform = ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	root := srv.Push(nobody, "x", "all", registrytest.NewIndex(t, append(all, unknown)...))
	srv.Push(nobody, "x", "nested", registrytest.NewIndex(t, registrytest.Image{
		Manifest: registrytest.NewIndex(t, append(all, unknown)...).Manifest, Type: ocispec.MediaTypeImageIndex, Platform: arm64,
	}))
	srv.Push(nobody, "x", "arm", registrytest.NewIndex(t, all[1], all[2]))
	armv8 := ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	armv5 := ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v5"}
	for _, tc := range []struct {
		tag      string
		platform *ocispec.Platform
		want     string
	}{
		{"all", nil, "amd64"}, {"all", &arm64, "arm64"}, {"all", &armv8, "arm64"},
		{"all", &armv7, "armv7"}, {"all", &armv6, "armv6"}, {"arm", &armv7, "armv6"}, {"nested", &arm64, "arm64"},
	} {
		job, _ := jobFor()
		_, l, err := f.pull(f.op("docker-image://"+srv.Host+"/x:"+tc.tag, tc.platform), job)
		if err != nil {
			t.Errorf("%+v: %v", tc, err)
		} else if got := f.file(l, "p"); got != tc.want {
			t.Errorf("%+v: got %q", tc, got)
		}
	}
	job, _ := jobFor()
	_, _, err := f.pull(f.op("docker-image://"+srv.Host+"/x:all", &armv5), job)
	want := "no match for platform in manifest: wanted linux/arm/v5, there is linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64:"
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("missing platform: %v", err)
	}
	src := &pb.SourceOp{Identifier: "docker-image://" + srv.Host + "/x:all"}
	meta, err := f.Meta(t.Context(), job, MetaRequest{Op: src, Platform: &pb.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}})
	if err != nil || meta.Digest != root || meta.Ref != srv.Host+"/x:all" || !strings.Contains(string(meta.Config), `"variant":"v7"`) {
		t.Errorf("meta %+v, %v", meta, err)
	}
	short, err := f.Meta(t.Context(), job, MetaRequest{Op: src, Platform: &pb.Platform{OS: "plan9", Architecture: "arm"}, DigestOnly: true})
	if err != nil || short.Digest != root || short.Config != nil {
		t.Errorf("digest only: %+v, %v", short, err)
	}
}

func TestPinnedAndLocalNeedsNoRegistry(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	d := srv.Push(nobody, "x", "1", registrytest.NewImage(t, amd64, files("a", "1")))
	job, _ := jobFor()
	ref := "docker-image://" + srv.Host + "/x:1"
	if _, _, err := f.pull(f.op(ref, nil), job); err != nil {
		t.Fatal(err)
	}
	srv.Push(nobody, "y", "1", registrytest.NewImage(t, amd64, files("a", "1")))
	other := "docker-image://" + srv.Host + "/y@" + d.String()
	if _, err := f.op(other, nil).Key(t.Context(), job); err != nil { // vouches for what is here already
		t.Fatal(err)
	}
	srv.Stop()
	if _, err := f.op(other, nil).Key(t.Context(), job); err != nil {
		t.Errorf("another repository, registry is down: %v", err)
	}
	if _, l, err := f.pull(f.op(ref+"@"+d.String(), nil), job); err != nil || f.file(l, "a") != "1" {
		t.Errorf("pinned, registry is down: %v", err)
	}
	_, _, err := f.pull(f.op(ref, nil), job)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), srv.Host+"/x:1: registry host "+srv.Host+" can't be reached") || strings.Contains(err.Error(), "\n") {
		t.Errorf("by tag, registry is down: %v", err)
	}
}

func TestDigestOfAnotherRepository(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, b := registrytest.Start(t, registrytest.Options{}), registrytest.Start(t, registrytest.Options{})
	d := a.Push(nobody, "secret", "1", registrytest.NewImage(t, amd64, files("a", "1")))
	b.Push(nobody, "secret", "1", registrytest.NewImage(t, amd64, files("a", "2")))
	job, _ := jobFor()
	if _, _, err := f.pull(f.op("docker-image://"+a.Host+"/secret:1", nil), job); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{a.Host + "/other@", b.Host + "/secret@", b.Host + "/secret:1@"} {
		if _, _, err := f.pull(f.op("docker-image://"+ref+d.String(), nil), job); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestResolveModes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.StartProxy(t, srv)
	down := false
	proxy.Answer = func(w http.ResponseWriter, _ *http.Request) bool {
		if down {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	name := proxy.Host + "/x:1"
	old := registrytest.NewImage(t, amd64, files("v", "old"))
	srv.Push(nobody, "x", "1", old)
	job, _ := jobFor()
	if _, _, err := f.pull(f.op("docker-image://"+name, nil), job); err != nil {
		t.Fatal(err)
	}
	ctx := f.store.Context(t.Context())
	target := ocispec.Descriptor{MediaType: old.Type, Digest: old.Digest(), Size: int64(len(old.Manifest))}
	if _, err := f.store.Images.Create(ctx, images.Image{Name: name, Target: target}); err != nil {
		t.Fatal(err)
	}
	srv.Push(nobody, "x", "1", registrytest.NewImage(t, amd64, files("v", "new")))
	pull := func(mode string) string {
		_, l, err := f.pull(f.op("docker-image://"+name, nil, pb.AttrImageResolveMode, mode), job)
		if err != nil {
			return err.Error()
		}
		return f.file(l, "v")
	}
	for mode, want := range map[string]string{"default": "new", "pull": "new", "local": "old", "": "new"} {
		if got := pull(mode); got != want {
			t.Errorf("mode %q: %q", mode, got)
		}
	}
	down = true
	for mode, want := range map[string]string{"default": "old", "local": "old"} {
		if got := pull(mode); got != want {
			t.Errorf("registry down, mode %q: %q", mode, got)
		}
	}
	if got := pull("pull"); !strings.Contains(got, "can't be reached") {
		t.Errorf("registry down, mode pull: %q", got)
	}
}

func TestLimitAndChecksum(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	d := srv.Push(nobody, "x", "1", registrytest.NewImage(t, amd64, files("a", "1"), files("a", "2")))
	id := "docker-image://" + srv.Host + "/x:1"
	job, _ := jobFor()
	whole, _, err := f.pull(f.op(id, nil, pb.AttrImageChecksum, d.String()), job)
	if err != nil {
		t.Fatal(err)
	}
	part, l, err := f.pull(f.op(id, nil, pb.AttrImageLayerLimit, "1"), job)
	if err != nil || f.file(l, "a") != "1" || part.Digest == whole.Digest {
		t.Errorf("one layer: %v, %v", part.Digest, err)
	}
	if _, _, err := f.pull(f.op(id, nil, pb.AttrImageLayerLimit, "3"), job); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too many layers: %v", err)
	}
	wrong := digest.FromString("x").String()
	if _, _, err := f.pull(f.op(id, nil, pb.AttrImageChecksum, wrong), job); err == nil || !strings.Contains(err.Error(), "expected checksum "+wrong) {
		t.Errorf("wrong checksum: %v", err)
	}
}

func TestConcurrentPullsShare(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.StartProxy(t, srv)
	srv.Push(nobody, "x", "1", registrytest.NewImage(t, amd64, files("a", strings.Repeat("1", 1<<20)), files("b", "2")))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			job, _ := jobFor()
			if _, _, err := f.pull(f.op("docker-image://"+proxy.Host+"/x:1", nil), job); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(proxy.Seen("GET /v2/x/blobs/")); n != 3 {
		t.Errorf("%d blobs were fetched, the image has a config and 2 layers", n)
	}
}

func TestCancelledPullLeavesOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.StartProxy(t, srv)
	srv.Push(nobody, "x", "1", registrytest.NewImage(t, amd64, files("a", "1")))
	first, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy.Answer = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			once.Do(func() {
				close(first)
				<-release
			})
		}
		return false
	}
	ctx, cancel := context.WithCancel(t.Context())
	job, _ := jobFor()
	impatient := make(chan error, 1)
	go func() {
		_, err := f.op("docker-image://"+proxy.Host+"/x:1", nil).Key(ctx, job)
		impatient <- err
	}()
	<-first
	patient := make(chan error, 1)
	go func() {
		_, _, err := f.pull(f.op("docker-image://"+proxy.Host+"/x:1", nil), job)
		patient <- err
	}()
	cancel()
	if err := <-impatient; err == nil {
		t.Error("a cancelled pull succeeds")
	}
	close(release)
	if err := <-patient; err != nil {
		t.Errorf("the other pull: %v", err)
	}
}
