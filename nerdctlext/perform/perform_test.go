package perform_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/cli/cli/config/types"
	controlapi "github.com/moby/buildkit/api/services/control"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/daemontest"
	"github.com/kiln-build/kiln/nerdctlext/dial"
	"github.com/kiln-build/kiln/nerdctlext/perform"
	"github.com/kiln-build/kiln/nerdctlext/progress"
)

func environment(variables map[string]string) (nerdctlext.Environment, *bytes.Buffer) {
	var stderr bytes.Buffer
	return nerdctlext.Environment{
		Lookup: func(name string) (string, bool) { value, ok := variables[name]; return value, ok },
		Stdin:  strings.NewReader(""),
		Stdout: &bytes.Buffer{},
		Stderr: &stderr,
	}, &stderr
}

func connect(t *testing.T, daemon *daemontest.Daemon) grpc.ClientConnInterface {
	t.Helper()
	conn, err := dial.Dial(dial.Options{Address: daemon.Address()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestFilesOfABuild(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	object := base64.StdEncoding.EncodeToString([]byte(`{"mediaType":"m","size":3}`))
	number := base64.StdEncoding.EncodeToString([]byte(`12`))
	daemon.Export = func(context.Context, session.Caller, *controlapi.SolveRequest) (map[string]string, error) {
		return map[string]string{"containerimage.digest": "sha256:0", "containerimage.descriptor": object, "number": number}, nil
	}
	daemon.Progress = []*controlapi.StatusResponse{{Vertexes: []*controlapi.Vertex{{Digest: "sha256:1", Name: "step", Started: timestamppb.Now(), Completed: timestamppb.Now()}}}}
	dir := t.TempDir()
	env, stderr := environment(nil)
	job := perform.Job{
		Env: env, Conn: connect(t, daemon), Request: &build.Request{Ref: build.NewRef(), Frontend: "f"},
		Progress: "plain", TraceFile: filepath.Join(dir, "trace"), RefFile: filepath.Join(dir, "ref"),
		MetadataFile: filepath.Join(dir, "metadata"), Metrics: progress.NewCacheMetrics(),
	}
	if _, err := job.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	if read("ref") != job.Request.Ref {
		t.Errorf("ref file %q", read("ref"))
	}
	if !strings.Contains(read("trace"), `"name":"step"`) || !strings.Contains(stderr.String(), "#1 step") {
		t.Errorf("trace %q, progress %q", read("trace"), stderr.String())
	}
	want := `{
  "containerimage.descriptor": {
    "mediaType": "m",
    "size": 3
  },
  "containerimage.digest": "sha256:0",
  "number": "` + number + `"
}`
	if read("metadata") != want {
		t.Errorf("metadata\n%s\nwant\n%s", read("metadata"), want)
	}
}

func TestRefFileIsWrittenWhenTheBuildFails(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.Compute = func(context.Context, session.Caller, *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		return nil, errors.New("no")
	}
	env, _ := environment(nil)
	path := filepath.Join(t.TempDir(), "ref")
	job := perform.Job{Env: env, Conn: connect(t, daemon), Request: &build.Request{Ref: "r", Frontend: "f"}, Progress: "quiet", RefFile: path}
	if _, err := job.Build(t.Context()); err == nil {
		t.Error("no error")
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "r" {
		t.Errorf("ref file %q, %v", content, err)
	}
}

func TestJobThatCannotStart(t *testing.T) {
	t.Parallel()
	env, _ := environment(nil)
	for _, job := range []perform.Job{
		{Progress: "fancy"},
		{Progress: "quiet", TraceFile: "none/trace"},
	} {
		job.Env, job.Request = env, &build.Request{Ref: "r", Frontend: "f"}
		if _, err := job.Build(t.Context()); err == nil {
			t.Errorf("%+v: no error", job)
		}
	}
}

func TestSubrequestOutput(t *testing.T) {
	t.Parallel()
	for want, metadata := range map[string]map[string][]byte{
		"text":                       {"result.txt": []byte("text"), "result.json": []byte("{}")},
		"result.a\n1\nresult.b\n2\n": {"result.b": []byte("2"), "result.a": []byte("1"), "version": []byte("3")},
		"":                           {},
	} {
		var out bytes.Buffer
		if err := perform.PrintSubrequest(&out, &build.Result{Metadata: metadata}); err != nil || out.String() != want {
			t.Errorf("%v: %q, %v", metadata, out.String(), err)
		}
	}
}

func TestErrorsShowTheirSource(t *testing.T) {
	t.Parallel()
	at := &pb.Range{Start: &pb.Position{Line: 1}, End: &pb.Position{Line: 1}}
	info := &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("FORM a\n")}
	err := errdefs.WithSource(errors.New("bad"), &errdefs.Source{Info: info, Ranges: []*pb.Range{at}})
	err = errdefs.WithSource(fmt.Errorf("build: %w", err), &errdefs.Source{Info: info, Ranges: []*pb.Range{{}}}) // hostile
	var out bytes.Buffer
	perform.PrintError(&out, err, false)
	want := "Dockerfile:1\n--------------------\n   1 | >>> FORM a\n   2 |     \n--------------------\nerror: build: bad\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestUnreachableNamesTheAddress(t *testing.T) {
	t.Parallel()
	if err := perform.Unreachable(nil, "unix:///x"); err != nil {
		t.Error(err)
	}
	if err := perform.Unreachable(errors.New("other"), "unix:///x"); strings.Contains(err.Error(), "unix:///x") {
		t.Error(err)
	}
	err := perform.Unreachable(status.Error(codes.Unavailable, "connection refused"), "unix:///x")
	if !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "unix:///x") {
		t.Error(err)
	}
}

func TestMain_ExitStatus(t *testing.T) {
	for want, err := range map[int]error{0: nil, 1: errors.New("failed")} {
		var stderr bytes.Buffer
		root := &cobra.Command{SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { return err }}
		root.SetArgs(nil)
		if got := perform.Main(root, &stderr); got != want {
			t.Errorf("%v: status %d", err, got)
		}
		if err != nil && stderr.String() != "error: failed\n" {
			t.Errorf("printed %q", stderr.String())
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	login := base64.StdEncoding.EncodeToString([]byte("user:pw"))
	config, err := json.Marshal(map[string]any{"auths": map[string]any{"r.example.com": map[string]string{"auth": login}, "https://index.docker.io/v1/": map[string]string{"auth": login}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	env, stderr := environment(map[string]string{"DOCKER_CONFIG": dir})
	fromFile, err := perform.CredentialsFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]types.AuthConfig{
		"r.example.com": {Username: "user", Password: "pw"}, "registry-1.docker.io": {Username: "user", Password: "pw"}, "other": {},
	} {
		for name, find := range map[string]func(context.Context, string) (types.AuthConfig, error){
			"directory": func(ctx context.Context, host string) (types.AuthConfig, error) {
				return perform.Credentials(env)(ctx, host, nil, nil)
			},
			"file": func(ctx context.Context, host string) (types.AuthConfig, error) { return fromFile(ctx, host, nil, nil) },
		} {
			got, err := find(t.Context(), host)
			if err != nil || got.Username != want.Username || got.Password != want.Password {
				t.Errorf("%s, %s: %+v, %v", name, host, got, err)
			}
		}
	}
	if stderr.Len() > 0 {
		t.Errorf("warned: %s", stderr.String())
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := perform.Credentials(env)(t.Context(), "r", nil, nil); err != nil || got.Username != "" || stderr.Len() == 0 {
		t.Errorf("a broken file: %+v, %v, warned %q", got, err, stderr.String())
	}
	if _, err := perform.CredentialsFile(path); err == nil {
		t.Error("a broken authfile was accepted")
	}
}
