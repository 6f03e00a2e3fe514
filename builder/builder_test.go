package builder_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/frontend"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/store/embedded"
	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// open gives a builder on an embedded store, on a root of its own.
func open(t *testing.T, change func(*builder.Config)) *builder.Builder {
	t.Helper()
	return openIn(t, t.TempDir(), change)
}

// openIn is open with a root that may have been used before.
func openIn(t *testing.T, root string, change func(*builder.Config)) *builder.Builder {
	t.Helper()
	st, err := embedded.Open(t.Context(), embedded.Config{Root: filepath.Join(root, "containerd"), Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	runner, err := sandbox.New(sandbox.Config{Binary: sandboxtest.RuntimeBinary(t), StateDir: filepath.Join(root, "sandbox")})
	if err != nil {
		t.Fatal(err)
	}
	sessions := session.NewManager()
	cfg := builder.Config{
		Root: root, Store: st, Runner: runner, Sessions: sessions,
		Registries: registry.New(registry.Config{}, sessions),
		Platforms:  []ocispec.Platform{platforms.DefaultSpec()},
		Frontends:  map[string]frontend.Func{},
	}
	if change != nil {
		change(&cfg)
	}
	b, err := builder.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(b.Close(context.Background()), st.Close()); err != nil {
			t.Error(err)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), root) {
			t.Errorf("something is still mounted below %s (%v)", root, err)
		}
	})
	return b
}

func definition(t *testing.T, st llb.State) *pb.Definition {
	t.Helper()
	def, err := st.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return def.ToPB()
}

// watch keeps the last state of each vertex, by name.
type watch struct {
	mu sync.Mutex
	m  map[string]event.Vertex
}

func (w *watch) Emit(e event.Event) {
	if v, ok := e.(*event.Vertex); ok {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.m == nil {
			w.m = map[string]event.Vertex{}
		}
		w.m[v.Name] = *v
	}
}

func (w *watch) vertex(name string) event.Vertex {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m[name]
}

func files() llb.State {
	return llb.Scratch().
		File(llb.Mkdir("/a", 0o755), llb.WithCustomName("make a")).
		File(llb.Mkfile("/a/hello", 0o644, []byte("hello")), llb.WithCustomName("make hello"))
}

func TestBuildDefinition(t *testing.T) {
	b := open(t, nil)
	req := builder.Request{Ref: "one", Definition: definition(t, files())}
	for round, cached := range []bool{false, true} {
		w := &watch{}
		if _, err := b.Build(t.Context(), req, w); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"make a", "make hello"} {
			v := w.vertex(name)
			if v.Completed == nil || v.Cached != cached || v.Error != "" {
				t.Errorf("round %d: %s: %+v", round, name, v)
			}
		}
	}
	usage, err := b.DiskUsage(t.Context(), nil)
	if err != nil || len(usage) != 2 {
		t.Fatalf("%d records, %v", len(usage), err)
	}
	var freed []string
	if err := b.Prune(t.Context(), cache.PruneRequest{All: true}, func(u cache.Usage) { freed = append(freed, u.ID) }); err != nil {
		t.Fatal(err)
	}
	if len(freed) != 2 {
		t.Errorf("pruned %v", freed)
	}
	w := &watch{}
	if _, err := b.Build(t.Context(), req, w); err != nil {
		t.Fatal(err)
	}
	if w.vertex("make hello").Cached {
		t.Error("a pruned record was found")
	}
}

// TestBuildByClient: with neither definition nor frontend, the build is what
// its client returns.
func TestBuildByClient(t *testing.T) {
	b := open(t, nil)
	go func() {
		bridge, err := b.Bridge(t.Context(), "driven")
		if err != nil {
			t.Error(err)
			return
		}
		res, err := bridge.Solve(t.Context(), gwclient.SolveRequest{Definition: definition(t, files())})
		if err != nil {
			bridge.Return(nil, err)
			return
		}
		ref, _ := res.SingleRef()
		dt, err := ref.ReadFile(t.Context(), gwclient.ReadRequest{Filename: "/a/hello"})
		if err != nil || string(dt) != "hello" {
			t.Errorf("read %q, %v", dt, err)
		}
		res.AddMeta("frontend.note", []byte("for you"))
		bridge.Return(res, nil)
	}()
	resp, err := b.Build(t.Context(), builder.Request{Ref: "driven"}, event.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Exporter["frontend.note"] != "for you" {
		t.Errorf("response %v", resp.Exporter)
	}
}

func TestBuildRefuses(t *testing.T) {
	b := open(t, func(c *builder.Config) { c.Entitlements = []string{"network.host"} })
	run := func(o ...llb.RunOption) *pb.Definition {
		return definition(t, llb.Scratch().Run(append(o, llb.Shlex("/true"))...).Root())
	}
	for name, tc := range map[string]struct {
		req  builder.Request
		want string
	}{
		"an entitlement that isn't granted":  {builder.Request{Entitlements: []string{"security.insecure"}}, "granting entitlement security.insecure is not allowed by build daemon configuration"},
		"an entitlement that wasn't asked":   {builder.Request{Definition: run(llb.Network(llb.NetModeHost))}, "network.host is not allowed"},
		"a mode that wasn't asked":           {builder.Request{Definition: run(llb.Security(llb.SecurityModeInsecure))}, "security.insecure is not allowed"},
		"an unknown frontend":                {builder.Request{Frontend: "fax.v0"}, "frontend fax.v0 is not known"},
		"a garbage definition":               {builder.Request{Definition: &pb.Definition{Def: [][]byte{{1}, {2}}}}, "invalid LLB definition"},
		"a command that isn't there":         {builder.Request{Definition: run()}, `process "/true" did not complete successfully`},
		"a file operation that can't succed": {builder.Request{Definition: definition(t, llb.Scratch().File(llb.Rm("/nothing")))}, "/nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.req.Ref = name
			_, err := b.Build(t.Context(), tc.req, event.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if usage, err := b.DiskUsage(t.Context(), nil); err != nil || len(usage) > 0 {
		t.Errorf("refused builds left %v, %v", usage, err)
	}
}

// TestBuildNamesThePlace: an error has the step, and the place that its author
// gave it.
func TestBuildNamesThePlace(t *testing.T) {
	b := open(t, nil)
	src := llb.NewSourceMap(nil, "Buildfile", "text", []byte("line one\nremove it\n"))
	st := llb.Scratch().File(llb.Rm("/nothing"), src.Location([]*pb.Range{{Start: &pb.Position{Line: 2}, End: &pb.Position{Line: 2}}}))
	_, err := b.Build(t.Context(), builder.Request{Ref: "place", Definition: definition(t, st)}, event.Discard)
	var vertex *bkerrdefs.VertexError
	if !errors.As(err, &vertex) {
		t.Errorf("no step in %v", err)
	}
	if s := bkerrdefs.Sources(err); len(s) != 1 || s[0].Info.Filename != "Buildfile" || s[0].Ranges[0].Start.Line != 2 {
		t.Errorf("no place in %v: %v", err, s)
	}
}

func TestOneBuildForARef(t *testing.T) {
	b := open(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := b.Build(ctx, builder.Request{Ref: "same"}, event.Discard)
		ended <- err
	}()
	if _, err := b.Bridge(t.Context(), "same"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Build(t.Context(), builder.Request{Ref: "same"}, event.Discard); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second build of the ref: %v", err)
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled build: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("a cancelled build doesn't end")
	}
}
