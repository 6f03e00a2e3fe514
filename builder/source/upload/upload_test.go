package upload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	"github.com/kiln-build/kiln/builder/store/embedded"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/moby/buildkit/solver/pb"
)

// fixture is a source with its own stores, and a client that uploads.
type fixture struct {
	*Source
	t      *testing.T
	dir    string
	layers *layer.Store
	up     *uploadprovider.Uploader
	job    schedule.Job
	hangUp func()
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx := context.Background()
	st, err := embedded.Open(ctx, embedded.Config{Root: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	layers, err := layer.New(ctx, st, layer.Config{Root: filepath.Join(t.TempDir(), "layers")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(layers.Close(ctx), st.Close()); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{t: t, dir: filepath.Join(t.TempDir(), "upload"), layers: layers, up: uploadprovider.New()}
	m := session.NewManager()
	if f.Source, err = New(Config{Dir: f.dir, Layers: layers, Sessions: m}); err != nil {
		t.Fatal(err)
	}
	c, stop := sessiontest.Open(t, m, "", f.up)
	f.hangUp = stop
	f.job = schedule.Job{Sessions: func() []string { return []string{c.ID()} }, Progress: event.Progress{Sink: event.Discard}}
	return f
}

// op makes the op of a source, whose attributes are given in pairs.
func (f *fixture) op(id string, attrs ...string) schedule.Op {
	f.t.Helper()
	src := &pb.SourceOp{Identifier: id, Attrs: map[string]string{}}
	for i := 0; i < len(attrs); i += 2 {
		src.Attrs[attrs[i]] = attrs[i+1]
	}
	op, err := f.Op(&graph.Step{Op: &pb.Op{Op: &pb.Op_Source{Source: src}}, Outputs: 1})
	if err != nil {
		f.t.Fatal(err)
	}
	return op
}

func (f *fixture) send(data string) string { return f.up.Add(io.NopCloser(strings.NewReader(data))) }

func (f *fixture) key(op schedule.Op) schedule.Key {
	f.t.Helper()
	k, err := op.Key(f.t.Context(), f.job)
	if err != nil {
		f.t.Fatal(err)
	}
	return k
}

func TestUpload(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	data := strings.Repeat("0123456789", 1<<20)
	op := f.op(f.send(data), pb.AttrHTTPFilename, "../x/context", pb.AttrHTTPPerm, "04755", pb.AttrHTTPUID, "7", pb.AttrHTTPGID, "8")
	f.key(op)
	if left, err := os.ReadDir(f.dir); err != nil || len(left) > 0 {
		t.Errorf("a file has a name: %v, %v", left, err)
	}
	results, err := op.Run(t.Context(), f.job, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, release, err := f.layers.Mount(t.Context(), results[0].(*layer.Layer))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("files: %v, %v", names, err)
	}
	fi, err := os.Stat(filepath.Join(dir, "context"))
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	if fi.Mode() != os.ModeSetuid|0o755 || st.Uid != 7 || st.Gid != 8 || fi.ModTime().Unix() != 0 {
		t.Errorf("mode %v, owner %d:%d, time %v", fi.Mode(), st.Uid, st.Gid, fi.ModTime())
	}
	if got, err := os.ReadFile(filepath.Join(dir, "context")); err != nil || !bytes.Equal(got, []byte(data)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.key(f.op(f.send("data"), pb.AttrHTTPFilename, "f")).Digest
	if again := f.key(f.op(f.send("data"), pb.AttrHTTPFilename, "f")).Digest; again != first {
		t.Error("equal files have different keys")
	}
	for _, attrs := range [][]string{
		{pb.AttrHTTPFilename, "g"}, {pb.AttrHTTPFilename, "f", pb.AttrHTTPPerm, "0644"}, {pb.AttrHTTPFilename, "f", pb.AttrHTTPUID, "1"},
	} {
		if other := f.key(f.op(f.send("data"), attrs...)).Digest; other == first {
			t.Errorf("%v has the same key", attrs)
		}
	}
	if other := f.key(f.op(f.send("other"), pb.AttrHTTPFilename, "f")).Digest; other == first {
		t.Error("other data has the same key")
	}
	const sum = "sha256:3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7" // of "data"
	f.key(f.op(f.send("data"), pb.AttrHTTPChecksum, sum))
	if _, err := f.op(f.send("other"), pb.AttrHTTPChecksum, sum).Key(t.Context(), f.job); err == nil || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("wrong checksum: %v", err)
	}
}

func TestBadUploads(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for id, attrs := range map[string]map[string]string{
		"http://elsewhere/x":        nil,
		"http://buildkit-session/a": {pb.AttrHTTPPerm: "rwx"},
		"http://buildkit-session/b": {pb.AttrHTTPPerm: "010000"},
		"http://buildkit-session/c": {pb.AttrHTTPUID: "-1"},
		"http://buildkit-session/d": {pb.AttrHTTPGID: "99999999999"},
		"http://buildkit-session/e": {pb.AttrHTTPChecksum: "sha256:x"},
		"http://buildkit-session/%": nil,
	} {
		step := &graph.Step{Op: &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id, Attrs: attrs}}}}
		if _, err := f.Op(step); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s %v: %v", id, attrs, err)
		}
	}
	op := f.op("http://buildkit-session/unknown")
	if _, err := op.Key(t.Context(), f.job); err == nil || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("unknown file: %v", err)
	}
	if _, err := op.Run(t.Context(), f.job, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("run without a file: %v", err)
	}
	broken := f.op(f.up.Add(io.NopCloser(io.MultiReader(strings.NewReader("half"), &failing{}))))
	if _, err := broken.Key(t.Context(), f.job); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("broken transfer: %v", err)
	}
	nobody := schedule.Job{Sessions: func() []string { return nil }}
	if _, err := f.op(f.send("x")).Key(t.Context(), nobody); !errdefs.IsNotFound(err) {
		t.Errorf("no session: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("disk on fire") }

// TestFilesEndWithTheSession: what no step has used doesn't stay open.
func TestFilesEndWithTheSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	o := f.op(f.send("data"))
	f.key(o)
	f.hangUp()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := o.(*op).data.Stat(); errors.Is(err, os.ErrClosed) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the file is still open")
		}
	}
	if _, err := o.Run(t.Context(), f.job, nil); err == nil {
		t.Error("a file that is gone was used")
	}
}

func TestFileNames(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/a": "a", "/a/b\u00a0": "b", "/": "download", "": "download", "/..": "download", "/a/..": "download",
		"/" + strings.Repeat("x", 256): "download", "/a\nb": "download", "/a%20b": "a%20b",
	} {
		if f, err := parseFile(&url.URL{Path: path}, nil); err != nil || f.Filename != want {
			t.Errorf("%q: got %q, %v", path, f.Filename, err)
		}
	}
	if got, err := (file{Filename: "f", Perm: 1}).key("sha256:00"); err != nil || got.String() != "sha256:"+fmt.Sprintf("%x", sha256.Sum256([]byte(`{"Filename":"f","Perm":1,"UID":0,"GID":0,"Checksum":"sha256:00"}`))) {
		t.Errorf("key %s, %v", got, err)
	}
}
