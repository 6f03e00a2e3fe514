package build_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/daemontest"
	"github.com/kiln-build/kiln/nerdctlext/dial"
)

// newClient connects to the daemon until the test ends.
func newClient(t *testing.T, daemon *daemontest.Daemon) *build.Client {
	t.Helper()
	conn, err := dial.Dial(dial.Options{Address: daemon.Address(), Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &build.Client{Conn: conn, Lookup: func(string) (string, bool) { return "", false }}
}

func request() *build.Request {
	return &build.Request{Ref: build.NewRef(), Frontend: "dockerfile.v0", Options: map[string]string{"target": "x"}}
}

func TestRequestReachesTheDaemon(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	var solve *controlapi.SolveRequest
	var bridge *gatewaypb.SolveRequest
	daemon.Compute = func(_ context.Context, _ session.Caller, request *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		bridge = request
		return &gatewaypb.Result{Metadata: map[string][]byte{"result.txt": []byte("text")}}, nil
	}
	daemon.Export = func(_ context.Context, _ session.Caller, request *controlapi.SolveRequest) (map[string]string, error) {
		solve = request
		return map[string]string{"containerimage.digest": "sha256:0"}, nil
	}
	r := request()
	r.Outputs = []build.Output{{Type: "image", Attrs: map[string]string{"name": "a"}}, {Type: "image"}}
	r.CacheImports = []build.Cache{{Type: "registry", Attrs: map[string]string{"ref": "r"}}}
	r.CacheExports = []build.Cache{{Type: "inline"}}
	r.Entitlements = []string{"network.host"}
	result, err := newClient(t, daemon).Build(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if result.Ref != r.Ref || result.Exported["containerimage.digest"] != "sha256:0" || string(result.Metadata["result.txt"]) != "text" {
		t.Errorf("result %+v", result)
	}
	if solve.Frontend != "" || solve.Definition != nil {
		t.Error("the solve that holds the build open names what is computed in it")
	}
	if len(solve.Exporters) != 2 || solve.ExporterDeprecated != "image" || solve.ExporterAttrsDeprecated["name"] != "a" {
		t.Errorf("exporters %v", solve.Exporters)
	}
	if len(solve.Cache.Imports) != 1 || len(solve.Cache.Exports) != 1 || solve.Entitlements[0] != "network.host" {
		t.Errorf("cache %v, entitlements %v", solve.Cache, solve.Entitlements)
	}
	if bridge.Frontend != "dockerfile.v0" || bridge.FrontendOpt["target"] != "x" || !bridge.AllowResultReturn || !bridge.AllowResultArrayRef {
		t.Errorf("bridge %v", bridge)
	}
	if want := `[{"Type":"registry","Attrs":{"ref":"r"}}]`; bridge.FrontendOpt["cache-imports"] != want {
		t.Errorf("cache-imports %s, want %s", bridge.FrontendOpt["cache-imports"], want)
	}
	if _, changed := r.Options["cache-imports"]; changed {
		t.Error("building changed the request")
	}
}

func TestErrorOfTheFrontendKeepsItsSource(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.Compute = func(context.Context, session.Caller, *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		at := &pb.Range{Start: &pb.Position{Line: 2}, End: &pb.Position{Line: 2}}
		return nil, errdefs.WithSource(errors.New("unknown instruction: FORM"), &errdefs.Source{
			Info: &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("# x\nFORM y\n")}, Ranges: []*pb.Range{at},
		})
	}
	_, err := newClient(t, daemon).Build(t.Context(), request())
	if err == nil || !strings.Contains(err.Error(), "failed to solve: ") || !strings.Contains(err.Error(), "unknown instruction: FORM") {
		t.Fatalf("error %v", err)
	}
	sources := errdefs.Sources(err)
	if len(sources) != 1 || sources[0].Info.GetFilename() != "Dockerfile" {
		t.Errorf("sources %v", sources)
	}
}

func TestErrorOfAnExporter(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.Export = func(context.Context, session.Caller, *controlapi.SolveRequest) (map[string]string, error) {
		return nil, errors.New("no room")
	}
	_, err := newClient(t, daemon).Build(t.Context(), request())
	if err == nil || !strings.Contains(err.Error(), "no room") {
		t.Fatalf("error %v", err)
	}
}

func TestNothingToBuild(t *testing.T) {
	t.Parallel()
	if _, err := newClient(t, daemontest.Start(t)).Build(t.Context(), &build.Request{Ref: build.NewRef()}); err == nil {
		t.Error("a request without frontend and definition was accepted")
	}
}

func TestNoDaemon(t *testing.T) {
	t.Parallel()
	conn, err := dial.Dial(dial.Options{Address: "unix://" + filepath.Join(t.TempDir(), "none.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &build.Client{Conn: conn}
	started := time.Now()
	if _, err := c.Build(t.Context(), request()); err == nil {
		t.Error("built without a daemon")
	}
	if time.Since(started) > 10*time.Second {
		t.Errorf("took %s to see that there is no daemon", time.Since(started))
	}
}

func TestCancelEndsTheBuildAndShowsItsEnd(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	began := make(chan struct{})
	daemon.Compute = func(ctx context.Context, _ session.Caller, _ *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		close(began)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	daemon.Progress = []*controlapi.StatusResponse{{Vertexes: []*controlapi.Vertex{{Digest: "sha256:1", Name: "step"}}}}
	c := newClient(t, daemon)
	seen := 0
	c.Observe = func(*client.SolveStatus) { seen++ }
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	started := time.Now()
	_, err := c.Build(ctx, request())
	if err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("error %v", err)
	}
	if seen == 0 {
		t.Error("the progress before the end was not observed")
	}
	if time.Since(started) > 9*time.Second {
		t.Errorf("cancelling took %s", time.Since(started))
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	at := timestamppb.New(time.Now().Add(-time.Second))
	daemon.Progress = []*controlapi.StatusResponse{
		{
			Vertexes: []*controlapi.Vertex{{Digest: "sha256:1", Inputs: []string{"sha256:2"}, Name: "step", Started: at, Cached: true}},
			Statuses: []*controlapi.VertexStatus{{ID: "id", Vertex: "sha256:1", Current: 1, Total: 2}}, // no timestamp
			Logs:     []*controlapi.VertexLog{{Vertex: "sha256:1", Stream: 1, Msg: []byte("line\n"), Timestamp: at}},
			Warnings: []*controlapi.VertexWarning{{Vertex: "sha256:1", Level: 1, Short: []byte("careful"), Url: "http://x"}},
		},
		{},
	}
	c := newClient(t, daemon)
	var all []*client.SolveStatus
	c.Observe = func(status *client.SolveStatus) { all = append(all, status) }
	if _, err := c.Build(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 {
		t.Fatalf("observed %d messages, want 2", len(all))
	}
	first := all[0]
	vertex := first.Vertexes[0]
	if vertex.Name != "step" || !vertex.Cached || vertex.Inputs[0] != digest.Digest("sha256:2") || vertex.Completed != nil {
		t.Errorf("vertex %+v", vertex)
	}
	if moved := vertex.Started.Sub(at.AsTime()).Abs(); moved > 5*time.Second {
		t.Errorf("the start was moved by %s though the clocks agree", moved)
	}
	if first.Statuses[0].Total != 2 || first.Statuses[0].Timestamp.IsZero() {
		t.Errorf("status %+v", first.Statuses[0])
	}
	if string(first.Logs[0].Data) != "line\n" || string(first.Warnings[0].Short) != "careful" || first.Warnings[0].URL != "http://x" {
		t.Errorf("log %+v, warning %+v", first.Logs[0], first.Warnings[0])
	}
}

func TestLocalsAreSent(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	dir, got := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("on disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon.Compute = func(ctx context.Context, caller session.Caller, _ *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		for _, name := range []string{"context", "memory"} {
			to := filepath.Join(got, name)
			if err := os.Mkdir(to, 0o755); err != nil {
				return nil, err
			}
			if err := filesync.FSSync(ctx, caller, filesync.FSSendRequestOpt{Name: name, DestDir: to}); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		err := filesync.FSSync(ctx, caller, filesync.FSSendRequestOpt{Name: "other", DestDir: got})
		if err == nil {
			return nil, errors.New("a directory was sent that the request does not name")
		}
		return &gatewaypb.Result{}, nil
	}
	r := request()
	r.Locals = map[string]build.Local{
		"context": {Dir: dir},
		"memory":  {Files: map[string][]byte{"Dockerfile": []byte("FROM scratch"), "Dockerfile.dockerignore": nil}},
	}
	if _, err := newClient(t, daemon).Build(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"context/file": "on disk", "memory/Dockerfile": "FROM scratch", "memory/Dockerfile.dockerignore": ""} {
		content, err := os.ReadFile(filepath.Join(got, path))
		if err != nil || string(content) != want {
			t.Errorf("%s: %q, %v", path, content, err)
		}
	}
}

func TestLocalMustBeADirectory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, daemontest.Start(t))
	for _, dir := range []string{file, file + ".none"} {
		r := request()
		r.Locals = map[string]build.Local{"context": {Dir: dir}}
		if _, err := c.Build(t.Context(), r); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestOutputsComeBack(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.Export = func(ctx context.Context, caller session.Caller, request *controlapi.SolveRequest) (map[string]string, error) {
		for id, output := range request.Exporters {
			if output.Type != "tar" {
				continue
			}
			w, err := filesync.CopyFileWriter(ctx, nil, id, caller)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(w, "stream %d", id)
			if err := w.Close(); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	dir := t.TempDir()
	var stdout bytes.Buffer
	c := newClient(t, daemon)
	c.Stdout = &stdout
	r := request()
	r.Outputs = []build.Output{{Type: "tar", File: filepath.Join(dir, "a.tar")}, {Type: "image"}, {Type: "tar", File: "-"}}
	if _, err := c.Build(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(dir, "a.tar")); err != nil || string(content) != "stream 0" {
		t.Errorf("file: %q, %v", content, err)
	}
	if stdout.String() != "stream 2" {
		t.Errorf("stdout: %q", stdout.String())
	}
}

func TestFailedBuildLeavesTheOldFile(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.Export = func(ctx context.Context, caller session.Caller, _ *controlapi.SolveRequest) (map[string]string, error) {
		w, err := filesync.CopyFileWriter(ctx, nil, 0, caller)
		if err != nil {
			return nil, err
		}
		fmt.Fprint(w, "half")
		w.Close()
		return nil, errors.New("the rest is missing")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tar")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := request()
	r.Outputs = []build.Output{{Type: "tar", File: path}}
	if _, err := newClient(t, daemon).Build(t.Context(), r); err == nil {
		t.Error("no error")
	}
	content, _ := os.ReadFile(path)
	entries, _ := os.ReadDir(dir)
	if string(content) != "old" || len(entries) != 1 {
		t.Errorf("file %q, directory %v", content, entries)
	}
}
