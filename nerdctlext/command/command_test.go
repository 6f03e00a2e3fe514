package command_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/command"
	"github.com/kiln-build/kiln/nerdctlext/daemontest"
	"github.com/kiln-build/kiln/nerdctlext/internal/golden"
)

func run(t *testing.T, daemon *daemontest.Daemon, argv ...string) golden.Ran {
	t.Helper()
	return golden.Execute(t.Context(), command.New, map[string]string{"KILN_HOST": daemon.Address(), "BUILDKIT_HOST": "unix:///nowhere"}, "", argv...)
}

// image is a daemon whose exporters say what an image is, and stream to outputs that
// come back.
func image(t *testing.T) *daemontest.Daemon {
	t.Helper()
	daemon := daemontest.Start(t)
	daemon.Export = func(ctx context.Context, caller session.Caller, request *controlapi.SolveRequest) (map[string]string, error) {
		for i, output := range request.Exporters {
			if output.Type == "image" {
				continue
			}
			w, err := filesync.CopyFileWriter(ctx, nil, i, caller)
			if err != nil {
				return nil, err
			}
			fmt.Fprint(w, output.Type)
			if err := w.Close(); err != nil {
				return nil, err
			}
		}
		return map[string]string{"containerimage.digest": "sha256:abc", "image.name": request.Exporters[0].Attrs["name"]}, nil
	}
	return daemon
}

func TestBuild(t *testing.T) {
	t.Parallel()
	daemon := image(t)
	iid, raw := filepath.Join(t.TempDir(), "iid"), filepath.Join(t.TempDir(), "raw")
	got := run(t, daemon, "build", "-t", "app", "--iidfile", iid, "--raw-iidfile", raw, "testdata/app")
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	if got.Stdout != "sha256:abc\n" || !strings.Contains(got.Stderr, "built docker.io/library/app:latest\n") {
		t.Errorf("%+v", got)
	}
	for path, want := range map[string]string{iid: "sha256:abc", raw: "abc"} {
		if content, err := os.ReadFile(path); err != nil || string(content) != want {
			t.Errorf("%s: %q, %v", path, content, err)
		}
	}
}

func TestQuiet(t *testing.T) {
	t.Parallel()
	if got := run(t, image(t), "build", "-q", "-t", "app", "testdata/app"); got.Err != nil || got.Stdout != "sha256:abc\n" || got.Stderr != "" {
		t.Errorf("%+v", got)
	}
}

func TestArchiveAloneOnStdout(t *testing.T) {
	t.Parallel()
	got := run(t, image(t), "build", "-o", "type=oci", "testdata/app")
	if got.Err != nil || got.Stdout != "oci" || !strings.HasSuffix(got.Stderr, "sha256:abc\n") {
		t.Errorf("%+v", got)
	}
	path := filepath.Join(t.TempDir(), "a.tar")
	got = run(t, image(t), "build", "-o", "type=oci,dest="+path, "testdata/app")
	if got.Err != nil || got.Stdout != "sha256:abc\n" || !strings.Contains(got.Stderr, "wrote oci archive "+path) {
		t.Errorf("%+v", got)
	}
}

func TestWarningsOfFlagsAreShown(t *testing.T) {
	t.Parallel()
	if got := run(t, image(t), "build", "--network", "pasta", "testdata/app"); !strings.Contains(got.Stderr, `warning: network "pasta" is ignored`) {
		t.Errorf("%+v", got)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	status := "1"
	daemon.Compute = func(_ context.Context, _ session.Caller, request *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		return &gatewaypb.Result{Metadata: map[string][]byte{
			"result.txt": []byte("found\n"), "result.json": []byte(`{"asked":"` + request.FrontendOpt["requestid"] + `"}`), "result.statuscode": []byte(status),
		}}, nil
	}
	if got := run(t, daemon, "build", "--check", "testdata/app"); got.Err == nil || got.Stdout != "found\n" {
		t.Errorf("%+v", got)
	}
	if got := run(t, daemon, "build", "--call", "check,ignorestatus=true", "testdata/app"); got.Err != nil {
		t.Errorf("%+v", got)
	}
	if got := run(t, daemon, "build", "--print=lint,format=json,ignorestatus", "testdata/app"); got.Err != nil || got.Stdout != `{"asked":"frontend.lint"}`+"\n" {
		t.Errorf("%+v", got)
	}
	status = "0"
	if got := run(t, daemon, "build", "--check", "testdata/app"); got.Err != nil {
		t.Errorf("%+v", got)
	}
}

func TestNoDigestIsAnErrorForIIDFile(t *testing.T) {
	t.Parallel()
	if got := run(t, daemontest.Start(t), "build", "--iidfile", filepath.Join(t.TempDir(), "iid"), "testdata/app"); got.Err == nil {
		t.Errorf("%+v", got)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	got := run(t, daemon, "prune", "-a", "-f", "--keep-duration", "48h", "--max-used-space", "20GB", "--reserved-space", "1GiB", "--min-free-space", "5%", "--filter", "a")
	if got.Err == nil {
		t.Error("5% is no size")
	}
	got = run(t, daemon, "prune", "-a", "-f", "--keep-duration", "48h", "--max-used-space", "20GB", "--reserved-space", "1GiB", "--min-free-space", "500", "--filter", "a")
	if got.Err != nil || !strings.Contains(got.Stdout, "Total:") {
		t.Fatalf("%+v", got)
	}
	asked := daemon.Pruned[0]
	if !asked.All || asked.KeepDuration != 48*3600e9 || asked.MaxUsedSpace != 20e9 || asked.ReservedSpace != 1<<30 || asked.MinFreeSpace != 500 || asked.Filter[0] != "a" {
		t.Errorf("asked %v", asked)
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	if got := run(t, daemon, "history", "inspect"); got.Err == nil || !strings.Contains(got.Err.Error(), "empty") {
		t.Errorf("an empty history: %+v", got)
	}
	daemon.History = []*controlapi.BuildHistoryEvent{
		{Record: &controlapi.BuildHistoryRecord{Ref: "old", CreatedAt: &timestamppb.Timestamp{Seconds: 1}, CompletedAt: &timestamppb.Timestamp{Seconds: 2}}},
		{Record: &controlapi.BuildHistoryRecord{Ref: "new", CreatedAt: &timestamppb.Timestamp{Seconds: 3}, CompletedAt: &timestamppb.Timestamp{Seconds: 4}}},
	}
	if got := run(t, daemon, "history", "inspect"); got.Err != nil || !strings.Contains(got.Stdout, "new") {
		t.Errorf("the last: %+v", got)
	}
	if got := run(t, daemon, "history", "ls", "--format", "{{.Ref}}"); got.Stdout != "new\nold\n" {
		t.Errorf("list: %+v", got)
	}
	if got := run(t, daemon, "history", "rm", "old", "new"); got.Err != nil || len(daemon.Updated) != 2 {
		t.Errorf("rm: %+v, %v", got, daemon.Updated)
	}
	for _, argv := range [][]string{{"history", "rm"}, {"history", "rm", "--all", "x"}, {"history", "inspect", "a", "b"}, {"history", "logs", "--trace", "old"}} {
		if got := run(t, daemon, argv...); got.Err == nil {
			t.Errorf("%v: no error", argv)
		}
	}
}

func TestVersionNamesBothSides(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	got := run(t, daemon, "version")
	if got.Err != nil || !strings.Contains(got.Stdout, "v1.2.3") || !strings.Contains(got.Stdout, daemon.Address()) {
		t.Errorf("%+v", got)
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	for name, test := range map[string]struct {
		variables map[string]string
		argv      []string
		want      string
	}{
		"flag":          {map[string]string{"KILN_HOST": "unix:///a"}, []string{"--addr", daemon.Address()}, daemon.Address()},
		"nerdctl's":     {nil, []string{"--buildkit-host", daemon.Address()}, daemon.Address()},
		"KILN_HOST":     {map[string]string{"KILN_HOST": "unix:///a", "BUILDKIT_HOST": "unix:///b"}, nil, "unix:///a"},
		"BUILDKIT_HOST": {map[string]string{"BUILDKIT_HOST": "unix:///b"}, nil, "unix:///b"},
		"user":          {map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}, nil, "unix:///run/user/7/kiln/kilnd.sock"},
		"system":        {nil, nil, "unix:///run/kiln/kilnd.sock"},
	} {
		got := golden.Execute(t.Context(), command.New, test.variables, "", append([]string{"version"}, test.argv...)...)
		if !strings.Contains(got.Stdout, test.want+"\n") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestEveryCommandIsExplained looks at the whole tree.
func TestEveryCommandIsExplained(t *testing.T) {
	t.Parallel()
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		if cmd.Long == "" || cmd.Example == "" || cmd.Short == "" {
			t.Errorf("%s lacks a description or examples", cmd.CommandPath())
		}
		for _, child := range cmd.Commands() {
			look(child)
		}
	}
	look(command.New(nerdctlext.Environment{Lookup: func(string) (string, bool) { return "", false }}))
	got := golden.Execute(t.Context(), command.New, nil, "", "completion", "bash")
	if got.Err != nil || !strings.Contains(got.Stdout, "kiln") {
		t.Errorf("completion: %v", got.Err)
	}
}
