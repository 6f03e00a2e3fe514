package export

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/embedded"
)

// env is an engine's lower half on a disk of its own.
type env struct {
	*Exporters
	ctx    context.Context // has a lease: what a build's records keep
	lease  leases.Lease
	st     *store.Store
	layers *layer.Store
	events recorder
	job    schedule.Job
}

func newEnv(t testing.TB) *env {
	t.Helper()
	root := t.TempDir()
	st, err := embedded.Open(context.Background(), embedded.Config{Root: filepath.Join(root, "store"), Snapshotter: "overlayfs"})
	if err != nil {
		t.Fatal(err)
	}
	return newEnvOn(t, st, root)
}

// newEnvOn takes over the store.
func newEnvOn(t testing.TB, st *store.Store, root string) *env {
	t.Helper()
	ctx := context.Background()
	layers, err := layer.New(ctx, st, layer.Config{Root: filepath.Join(root, "layers")})
	if err != nil {
		t.Fatal(err)
	}
	sessions := session.NewManager()
	registries := registry.New(registry.Config{}, sessions)
	e := &env{st: st, layers: layers}
	e.Exporters = New(Config{Layers: layers, Store: st, Images: st.Images, Unnamed: true, Sessions: sessions, Registry: testAccess{registries}})
	e.retry.first = time.Millisecond
	e.job = schedule.Job{Sessions: func() []string { return sessions.IDs() }, Progress: event.Progress{Sink: &e.events}}
	t.Cleanup(func() {
		registries.Close()
		if err := layers.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		if mounts, _ := os.ReadFile("/proc/self/mountinfo"); bytes.Contains(mounts, []byte(root)) {
			t.Error("something is still mounted")
		}
	})
	ctx = st.Context(ctx)
	if e.lease, err = st.Leases.Create(ctx, leases.WithRandomID()); err != nil {
		t.Fatal(err)
	}
	e.ctx = leases.WithLease(ctx, e.lease.ID)
	return e
}

// testAccess is what the engine puts in between.
type testAccess struct{ registries *registry.Registries }

func (a testAccess) Resolver(sessions func() []string, ref string, insecure bool) (remotes.Resolver, error) {
	if !insecure {
		return a.registries.Resolver(sessions), nil
	}
	host, _, _ := strings.Cut(ref, "/")
	return a.registries.Insecure(host).Resolver(sessions), nil
}

// made is when the layers of tests were made.
var made = time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)

// layer commits a layer with the files, whose names may end in "/".
func (e *env) layer(t testing.TB, parent *layer.Layer, files map[string]string) *layer.Layer {
	t.Helper()
	w, err := e.layers.NewWorkspace(e.ctx, parent)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := w.Dir(e.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(data), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return os.Chtimes(path, made, made)
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := w.Commit(e.ctx, layer.Meta{Created: made, Description: "layer of a test"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// single is a result of one tree for the machine's platform.
func single(l *layer.Layer) Result {
	return Result{Refs: map[string]*layer.Layer{"": l}, Metadata: map[string][]byte{}}
}

// multi is a result for linux/amd64 and linux/arm64.
func multi(amd64, arm64 *layer.Layer) Result {
	return Result{
		Refs: map[string]*layer.Layer{"linux/amd64": amd64, "linux/arm64": arm64},
		Metadata: map[string][]byte{
			"refs.platforms": []byte(`{"Platforms":[` +
				`{"ID":"linux/amd64","Platform":{"os":"linux","architecture":"amd64"}},` +
				`{"ID":"linux/arm64","Platform":{"os":"linux","architecture":"arm64"}}]}`),
			"containerimage.config/linux/amd64": []byte(`{"os":"linux","architecture":"amd64"}`),
			"containerimage.config/linux/arm64": []byte(`{"os":"linux","architecture":"arm64"}`),
		},
	}
}

// export runs an exporter to its end, but for the release.
func (e *env) export(t *testing.T, target Target, r Result) (Outcome, error) {
	t.Helper()
	x, err := e.Resolve(e.ctx, target)
	if err != nil {
		return Outcome{}, err
	}
	// As the engine does it: without the lease of any record.
	ctx := leases.WithLease(context.Background(), "")
	out, err := x.Export(ctx, e.job, r)
	if err == nil && out.Finalize != nil {
		err = out.Finalize(ctx)
	}
	if out.Release != nil {
		t.Cleanup(out.Release)
	}
	return out, err
}

func (e *env) mustExport(t *testing.T, target Target, r Result) Outcome {
	t.Helper()
	out, err := e.export(t, target, r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// client opens a session and returns its id.
func (e *env) client(t *testing.T, offers ...bksession.Attachable) string {
	t.Helper()
	c, _ := sessiontest.Open(t, e.cfg.Sessions, "", offers...)
	return c.ID()
}

// fileClient opens a session that takes output 0 as a file.
func (e *env) fileClient(t *testing.T) (id string, file *received) {
	t.Helper()
	file = &received{}
	return e.client(t, filesync.NewFSSyncTarget(filesync.WithFSSync(0, file.open))), file
}

// received is a file that a client was sent.
type received struct {
	bytes.Buffer
	metadata map[string]string
	refuse   bool
}

func (r *received) open(metadata map[string]string) (io.WriteCloser, error) {
	if r.refuse {
		return nil, nil // filesync's way to say that the file is there
	}
	r.metadata = metadata
	return r, nil
}

func (r *received) Close() error { return nil }

func (e *env) read(t *testing.T, desc ocispec.Descriptor, into any) {
	t.Helper()
	data, err := content.ReadBlob(e.ctx, e.st.Content, desc)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// forget ends all that keeps content but images, and collects.
func (e *env) forget(t *testing.T) {
	t.Helper()
	all, err := e.st.Leases.List(e.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if err := e.st.Leases.Delete(e.ctx, l); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.st.GC(e.ctx); err != nil {
		t.Fatal(err)
	}
}

// recorder keeps the ids of progress items, and logs.
type recorder struct {
	mu    sync.Mutex
	items []string
	open  map[string]int
	logs  bytes.Buffer
}

func (r *recorder) Emit(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e := e.(type) {
	case *event.Status:
		if r.open == nil {
			r.open = map[string]int{}
		}
		if _, ok := r.open[e.ID]; !ok {
			r.items = append(r.items, e.ID)
			r.open[e.ID] = 1
		}
		if e.Completed != nil {
			r.open[e.ID] = 0
		}
	case *event.Log:
		r.logs.Write(e.Data)
	case *event.Warning:
		r.logs.Write(e.Short)
	}
}

// check fails unless an item whose id begins so was begun, and all are done.
func (r *recorder) check(t *testing.T, wants ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, want := range wants {
		found := false
		for _, id := range r.items {
			found = found || strings.HasPrefix(id, want)
		}
		if !found {
			t.Errorf("no progress item %q in %q", want, r.items)
		}
	}
	for id, open := range r.open {
		if open != 0 {
			t.Errorf("progress item %q isn't done", id)
		}
	}
}

// wantFiles fails unless the directory has these files and no others.
func wantFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		got[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}
