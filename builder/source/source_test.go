package source

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/session/registry/registrytest"
	"github.com/kiln-build/kiln/builder/store/embedded"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func newSources(t *testing.T) (*Sources, Config) {
	t.Helper()
	ctx, root := context.Background(), t.TempDir()
	st, err := embedded.Open(ctx, embedded.Config{Root: filepath.Join(root, "store")})
	if err != nil {
		t.Fatal(err)
	}
	layers, err := layer.New(ctx, st, layer.Config{Root: filepath.Join(root, "layers")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := layers.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	m := session.NewManager()
	cfg := Config{
		Root: filepath.Join(root, "sources"), Store: st, Layers: layers, Sessions: m, Platform: amd64,
		Registries: registry.New(registry.Config{Retry: registry.Retry{Attempts: 1, First: time.Millisecond, Max: time.Millisecond}}, m),
	}
	s, err := New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, cfg
}

func sourceStep(id string) *graph.Step {
	return &graph.Step{Op: &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id}}}}
}

func TestSchemes(t *testing.T) {
	t.Parallel()
	s, _ := newSources(t)
	for _, id := range []string{"docker-image://alpine", "local://context", "oci-layout://s@" + digest.FromString("").String()} {
		if op, err := s.Op(sourceStep(id)); err != nil || op == nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, id := range []string{"", "alpine", "nfs://x", "://x"} {
		if _, err := s.Op(sourceStep(id)); !errdefs.IsNotFound(err) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, err := s.Op(&graph.Step{Op: &pb.Op{}}); !errdefs.IsNotFound(err) {
		t.Errorf("no source: %v", err)
	}
}

func TestResolveMeta(t *testing.T) {
	t.Parallel()
	s, cfg := newSources(t)
	srv := registrytest.Start(t, registrytest.Options{})
	here := registrytest.NewImage(t, amd64, map[string]string{"v": "here"})
	srv.Push(registrytest.Login{}, "x", "1", here)
	op := &pb.SourceOp{Identifier: "docker-image://" + srv.Host + "/x:1", Attrs: map[string]string{"image.resolvemode": "pull"}}
	job := schedule.Job{Sessions: func() []string { return nil }}
	if m, err := s.ResolveMeta(t.Context(), job, MetaRequest{Op: op}); err != nil || m.Digest != here.Digest() || len(m.Config) == 0 {
		t.Errorf("%+v, %v", m, err)
	}
	ctx := cfg.Store.Context(t.Context())
	if _, err := cfg.Store.Images.Create(ctx, images.Image{Name: srv.Host + "/x:1", Target: here.Descriptor()}); err != nil {
		t.Fatal(err)
	}
	there := registrytest.NewImage(t, amd64, map[string]string{"v": "there"})
	srv.Push(registrytest.Login{}, "x", "1", there)
	for mode, want := range map[string]digest.Digest{"": there.Digest(), "local": here.Digest(), "pull": there.Digest()} {
		if m, err := s.ResolveMeta(t.Context(), job, MetaRequest{Op: op, ResolveMode: mode}); err != nil || m.Digest != want {
			t.Errorf("mode %q: %v, %v", mode, m.Digest, err)
		}
	}
	if op.Attrs["image.resolvemode"] != "pull" {
		t.Error("the op was changed")
	}
	for _, id := range []string{"local://context", "", "git://x"} {
		if _, err := s.ResolveMeta(t.Context(), job, MetaRequest{Op: &pb.SourceOp{Identifier: id}}); !errdefs.IsNotImplemented(err) {
			t.Errorf("%q: %v", id, err)
		}
	}
}
