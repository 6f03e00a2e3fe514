package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/session/registry/registrytest"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/embedded"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = ocispec.Platform{OS: "linux", Architecture: "arm64"}
	armv7 = ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	armv6 = ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}

	nobody registrytest.Login
)

// fixture is a source with its own stores.
type fixture struct {
	*Source
	t      *testing.T
	store  *store.Store
	layers *layer.Store
	m      *session.Manager
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	st, err := embedded.Open(context.Background(), embedded.Config{Root: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	return newFixtureOn(t, st)
}

func newFixtureOn(t *testing.T, st *store.Store) *fixture {
	t.Helper()
	root, ctx := t.TempDir(), context.Background()
	layers, err := layer.New(ctx, st, layer.Config{Root: filepath.Join(root, "layers")})
	if err != nil {
		t.Fatal(err)
	}
	m := session.NewManager()
	regs := registry.New(registry.Config{Retry: registry.Retry{Attempts: 3, First: time.Millisecond, Max: time.Millisecond}}, m)
	t.Cleanup(func() {
		regs.Close()
		if err := layers.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return &fixture{
		Source: New(Config{Store: st, Layers: layers, Sessions: m, Registries: regs, Platform: amd64}),
		t:      t, store: st, layers: layers, m: m,
	}
}

// sink keeps the ids of the items that were begun.
type sink struct {
	mu  sync.Mutex
	ids []string
}

func (s *sink) Emit(e event.Event) {
	if st, ok := e.(*event.Status); ok && st.Completed == nil && st.Current == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ids = append(s.ids, st.ID)
	}
}

func (s *sink) with(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.ids {
		if strings.HasPrefix(id, prefix) {
			n++
		}
	}
	return n
}

func jobFor(sessions ...string) (schedule.Job, *sink) {
	s := &sink{}
	return schedule.Job{Sessions: func() []string { return sessions }, Progress: event.Progress{Sink: s}}, s
}

// op makes the op of an image source; attrs are pairs.
func (f *fixture) op(id string, platform *ocispec.Platform, attrs ...string) schedule.Op {
	f.t.Helper()
	src := &pb.SourceOp{Identifier: id, Attrs: map[string]string{}}
	for i := 0; i+1 < len(attrs); i += 2 {
		src.Attrs[attrs[i]] = attrs[i+1]
	}
	step := &graph.Step{Op: &pb.Op{Op: &pb.Op_Source{Source: src}}}
	if platform != nil {
		step.Platform = &pb.Platform{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant}
	}
	op, err := f.Op(step)
	if err != nil {
		f.t.Fatal(err)
	}
	return op
}

// leased gives a context as the scheduler gives one to a run.
func (f *fixture) leased() context.Context {
	f.t.Helper()
	ctx := f.store.Context(f.t.Context())
	l, err := f.store.Leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		f.t.Fatal(err)
	}
	return leases.WithLease(ctx, l.ID)
}

// pull pins and runs.
func (f *fixture) pull(op schedule.Op, job schedule.Job) (schedule.Key, *layer.Layer, error) {
	f.t.Helper()
	key, err := op.Key(f.t.Context(), job)
	if err != nil {
		return key, nil, err
	}
	out, err := op.Run(f.leased(), job, nil)
	if err != nil {
		return key, nil, err
	}
	l, _ := out[0].(*layer.Layer)
	return key, l, nil
}

// file reads a file of the layer's tree.
func (f *fixture) file(l *layer.Layer, name string) string {
	f.t.Helper()
	dir, release, err := f.layers.Mount(f.t.Context(), l)
	if err != nil {
		f.t.Fatal(err)
	}
	defer release()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func files(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}
