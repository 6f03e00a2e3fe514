package buildctl_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kiln-build/kiln/nerdctlext/buildctl"
	"github.com/kiln-build/kiln/nerdctlext/daemontest"
	"github.com/kiln-build/kiln/nerdctlext/internal/golden"
)

func run(t *testing.T, daemon *daemontest.Daemon, argv ...string) golden.Ran {
	t.Helper()
	return golden.Execute(t.Context(), buildctl.New, map[string]string{"BUILDKIT_HOST": daemon.Address()}, "", argv...)
}

// TestNerdctlDrivesIt makes the calls of a nerdctl build whose image is loaded from
// standard output.
func TestNerdctlDrivesIt(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.Workers = []*apitypes.WorkerRecord{{ID: "w", Labels: map[string]string{"org.mobyproject.buildkit.worker.executor": "oci"}}}
	daemon.Progress = []*controlapi.StatusResponse{{Vertexes: []*controlapi.Vertex{{Digest: "sha256:1", Name: "step", Started: timestamppb.Now()}}}}
	var asked *gatewaypb.SolveRequest
	daemon.Compute = func(_ context.Context, _ session.Caller, request *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		asked = request
		return &gatewaypb.Result{}, nil
	}
	daemon.Export = func(ctx context.Context, caller session.Caller, _ *controlapi.SolveRequest) (map[string]string, error) {
		w, err := filesync.CopyFileWriter(ctx, nil, 0, caller)
		if err != nil {
			return nil, err
		}
		fmt.Fprint(w, "tar")
		return map[string]string{"containerimage.digest": "sha256:0"}, w.Close()
	}
	dir := t.TempDir()
	metadata := filepath.Join(dir, "metadata")

	if got := run(t, daemon, "--addr="+daemon.Address(), "debug", "workers"); got.Err != nil {
		t.Fatal(got.Err)
	}
	got := run(t, daemon, "--addr="+daemon.Address(), "debug", "workers", "--format", "{{json .}}")
	if !strings.Contains(got.Stdout, `"labels":{"org.mobyproject.buildkit.worker.executor":"oci"}`) || got.Err != nil {
		t.Errorf("workers: %+v", got)
	}
	got = run(t, daemon, "--addr="+daemon.Address(), "build", "--progress=plain", "--frontend=dockerfile.v0", "--local=context="+dir,
		"--output=type=docker,name=docker.io/library/a:latest", "--local=dockerfile="+dir, "--opt=filename=Dockerfile", "--metadata-file="+metadata)
	if got.Err != nil || got.Stdout != "tar" {
		t.Errorf("build: %+v", got)
	}
	if !strings.Contains(got.Stderr, "#1 step") {
		t.Errorf("progress: %q", got.Stderr)
	}
	if asked.FrontendOpt["filename"] != "Dockerfile" {
		t.Errorf("asked %v", asked)
	}
	if content, err := os.ReadFile(metadata); err != nil || !strings.Contains(string(content), `"containerimage.digest": "sha256:0"`) {
		t.Errorf("metadata %s, %v", content, err)
	}
	if got := run(t, daemon, "--addr="+daemon.Address(), "prune", "--format={{json .}}", "--all"); got.Err != nil || !daemon.Pruned[0].All {
		t.Errorf("prune: %+v, %v", got, daemon.Pruned)
	}
}

func TestSubrequest(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.Compute = func(context.Context, session.Caller, *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		return &gatewaypb.Result{Metadata: map[string][]byte{"result.txt": []byte("outline")}}, nil
	}
	if got := run(t, daemon, "build", "--frontend", "f", "--opt", "requestid=frontend.outline", "--progress", "quiet"); got.Err != nil || got.Stdout != "outline" {
		t.Errorf("%+v", got)
	}
}

func TestPruneLimits(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	got := run(t, daemon, "prune", "--keep-duration", "2h", "--keep-storage", "1.5", "--keep-storage-min", "2", "--free-storage", "3", "--filter", "a,b", "-f", "c")
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	asked := daemon.Pruned[0]
	if asked.KeepDuration != 2*3600e9 || asked.MaxUsedSpace != 1.5e6 || asked.ReservedSpace != 2e6 || asked.MinFreeSpace != 3e6 || asked.All {
		t.Errorf("asked %v", asked)
	}
	if got := strings.Join(asked.Filter, " "); got != "a,b c" {
		t.Errorf("filters %s", got)
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.History = []*controlapi.BuildHistoryEvent{{Record: &controlapi.BuildHistoryRecord{Ref: "r1"}}}
	for _, argv := range [][]string{{"debug", "ctl", "--pin", "r1"}, {"debug", "ctl", "--unpin", "r1"}, {"debug", "ctl", "--delete", "r1"}, {"prune-histories"}, {"debug", "histories"}, {"debug", "monitor"}, {"debug", "info"}, {"du"}} {
		if got := run(t, daemon, argv...); got.Err != nil {
			t.Errorf("%v: %v", argv, got.Err)
		}
	}
	if len(daemon.Updated) != 4 || !daemon.Updated[0].Pinned || daemon.Updated[1].Pinned || !daemon.Updated[2].Delete || !daemon.Updated[3].Delete {
		t.Errorf("updates %v", daemon.Updated)
	}
}

func TestCommandLinesThatAreRefused(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	for _, argv := range [][]string{
		{"nonsense"},
		{"du", "--nonsense"},
		{"--log-format", "fancy", "du"},
		{"debug", "ctl", "ref"},
		{"debug", "ctl", "--pin", "--delete", "ref"},
		{"debug", "ctl", "--pin"},
		{"debug", "logs"},
		{"debug", "get", "no digest"},
		{"du", "--format", "{{"},
		{"build", "--frontend", "f", "--progress", "fancy"},
		{"build"},
		{"--tlscert", "only", "du"},
		{"dial-stdio", "x"},
		// flags come before what is no flag
		{"build", "x", "--frontend", "f"},
	} {
		if got := run(t, daemon, argv...); got.Err == nil {
			t.Errorf("%v: no error", argv)
		}
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	daemon := daemontest.Start(t)
	daemon.Progress = []*controlapi.StatusResponse{{Vertexes: []*controlapi.Vertex{{Digest: "sha256:1", Name: "step", Started: timestamppb.Now()}}}}
	if got := run(t, daemon, "build", "--frontend", "f", "--ref-file", filepath.Join(t.TempDir(), "ref")); got.Err != nil {
		t.Fatal(got.Err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	got := golden.Execute(ctx, buildctl.New, map[string]string{"BUILDKIT_HOST": daemon.Address()}, "", "debug", "logs", "ref")
	if got.Err == nil {
		t.Error("a cancelled context was not noticed")
	}
	if got := run(t, daemon, "debug", "logs", "--trace", "none"); got.Err == nil || !strings.Contains(got.Err.Error(), "none") {
		t.Errorf("a trace of a build that is not there: %v", got.Err)
	}
}

func TestDump(t *testing.T) {
	t.Parallel()
	source, err := (&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://src"}}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	empty, err := (&pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Mounts: []*pb.Mount{{}}}}}).MarshalVT() // fields that a hostile graph leaves out
	if err != nil {
		t.Fatal(err)
	}
	content, err := (&pb.Definition{Def: [][]byte{source, empty}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	daemon := daemontest.Start(t)
	path := filepath.Join(t.TempDir(), "llb")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	got := run(t, daemon, "debug", "dump-llb", path)
	if got.Err != nil || strings.Count(got.Stdout, "\n") != 2 || !strings.Contains(got.Stdout, "local://src") {
		t.Errorf("%+v", got)
	}
	got = golden.Execute(t.Context(), buildctl.New, nil, string(content), "debug", "dump-llb", "--dot")
	if got.Err != nil || !strings.HasPrefix(got.Stdout, "digraph {\n") || !strings.Contains(got.Stdout, `[label="local://src" shape="ellipse"]`) {
		t.Errorf("%+v", got)
	}
	if got := golden.Execute(t.Context(), buildctl.New, nil, "junk\x00", "debug", "dump-llb"); got.Err == nil {
		t.Error("junk was dumped")
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--version", "-v"} {
		got := golden.Execute(t.Context(), buildctl.New, nil, "", flag)
		if got.Err != nil || got.Stdout != "buildctl example.com/kiln v1 abc\n" {
			t.Errorf("%s: %+v", flag, got)
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell", "pwsh"} {
		if got := golden.Execute(t.Context(), buildctl.New, nil, "", "completion", shell); got.Err != nil || !strings.Contains(got.Stdout, "buildctl") {
			t.Errorf("%s: %v", shell, got.Err)
		}
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	got := golden.Execute(t.Context(), buildctl.New, nil, "", "--timeout", "1", "du")
	if got.Err == nil || !strings.Contains(got.Err.Error(), "unix:///run/buildkit/buildkitd.sock") {
		t.Errorf("without an address: %v", got.Err)
	}
}
