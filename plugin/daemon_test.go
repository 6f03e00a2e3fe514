package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
	"github.com/kiln-build/kiln/plugin/config"
	"github.com/kiln-build/kiln/plugin/control"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/llb"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// running is a daemon on an embedded store that is served on a socket.
type running struct {
	*grpc.ClientConn
	control controlapi.ControlClient
	bridge  gwpb.LLBBridgeClient
	cfg     config.Config
	stop    func()
}

func start(t *testing.T) *running {
	t.Helper()
	cfg := config.Default(config.ProcessEnvironment())
	cfg.Root = t.TempDir()
	cfg.Backend, cfg.Snapshotter = config.BackendEmbedded, "native"
	cfg.Sandbox.Runtime = sandboxtest.RuntimeBinary(t)
	socket := filepath.Join(t.TempDir(), "s")
	cfg.Addresses = []string{"unix://" + socket}
	cfg.DebugAddress = "unix://" + filepath.Join(t.TempDir(), "debug")
	d, err := Open(t.Context(), cfg, control.Version{Package: "p", Version: "v0.33.1", Revision: "r"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx, context.Background(), config.Systemd{}) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{ClientConn: conn, control: controlapi.NewControlClient(conn), bridge: gwpb.NewLLBBridgeClient(conn), cfg: cfg}
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-served, d.Close(context.Background())); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
	t.Cleanup(r.stop)
	return r
}

func marshal(t *testing.T, st llb.State) *pb.Definition {
	t.Helper()
	def, err := st.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return def.ToPB()
}

func hello(text string) llb.State {
	return llb.Scratch().File(llb.Mkfile("/hello", 0o644, []byte(text)))
}

func TestServices(t *testing.T) {
	t.Parallel()
	d := start(t)
	ctx := t.Context()
	info, err := d.control.Info(ctx, &controlapi.InfoRequest{})
	if err != nil || info.BuildkitVersion.Version != "v0.33.1" {
		t.Errorf("info %v, error %v", info, err)
	}
	workers, err := d.control.ListWorkers(ctx, &controlapi.ListWorkersRequest{})
	if err != nil || len(workers.Record) != 1 || workers.Record[0].Labels[labelPrefix+"snapshotter"] != "native" || len(workers.Record[0].GCPolicy) != 4 {
		t.Errorf("workers %v, error %v", workers, err)
	}
	health, err := healthpb.NewHealthClient(d).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil || health.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health %v, error %v", health, err)
	}
	if _, err := tracepb.NewTraceServiceClient(d).Export(ctx, &tracepb.ExportTraceServiceRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("traces: %v", err)
	}
	if _, err := contentapi.NewContentClient(d).Delete(ctx, &contentapi.DeleteContentRequest{Digest: "sha256:" + strings.Repeat("0", 64)}); status.Code(err) != codes.Unimplemented {
		t.Errorf("deleting content: %v", err)
	}
}

func TestOneDaemonAtATime(t *testing.T) {
	t.Parallel()
	d := start(t)
	if _, err := Open(t.Context(), d.cfg, control.Version{}); err == nil || !strings.Contains(err.Error(), "in use by another daemon") {
		t.Errorf("a second daemon: %v", err)
	}
	d.stop()
	again, err := Open(t.Context(), d.cfg, control.Version{})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(context.Background()); err != nil {
		t.Error(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(d.cfg.Root)) {
		t.Errorf("there are mounts left below %s", d.cfg.Root)
	}
}

func TestBuildOfADefinition(t *testing.T) {
	t.Parallel()
	d := start(t)
	if _, err := d.control.Solve(t.Context(), &controlapi.SolveRequest{Ref: "r", Definition: marshal(t, hello("hi"))}); err != nil {
		t.Fatal(err)
	}
	rec := d.record(t, "r")
	if rec.NumTotalSteps != 1 || rec.NumCompletedSteps != 1 || rec.Error != nil {
		t.Errorf("record %v", rec)
	}
	// Log and trace are there for those who read content.
	if log := d.read(t, rec.Logs); int64(len(log)) != rec.Logs.Size || len(log) == 0 {
		t.Errorf("read %d bytes of %d", len(log), rec.Logs.Size)
	}
	dec := json.NewDecoder(bytes.NewReader(d.read(t, rec.Trace)))
	var names []string
	for dec.More() {
		var span struct{ Name string }
		if err := dec.Decode(&span); err != nil {
			t.Fatal(err)
		}
		names = append(names, span.Name)
	}
	if len(names) != 2 || names[0] != "build" {
		t.Errorf("spans %q", names)
	}
}

func (d *running) read(t *testing.T, desc *controlapi.Descriptor) (all []byte) {
	t.Helper()
	stream, err := contentapi.NewContentClient(d).Read(t.Context(), &contentapi.ReadContentRequest{Digest: desc.GetDigest()})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m.Data...)
	}
}

func (d *running) record(t *testing.T, ref string) *controlapi.BuildHistoryRecord {
	t.Helper()
	stream, err := d.control.ListenBuildHistory(t.Context(), &controlapi.BuildHistoryRequest{Ref: ref, EarlyExit: true})
	if err != nil {
		t.Fatal(err)
	}
	event, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return event.Record
}

func TestDebugServer(t *testing.T) {
	t.Parallel()
	d := start(t)
	if _, err := d.control.Solve(t.Context(), &controlapi.SolveRequest{Ref: "r", Definition: marshal(t, hello("hi"))}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.control.Solve(t.Context(), &controlapi.SolveRequest{Ref: "r", Frontend: "nothing.v0"}); err == nil {
		t.Fatal("an unknown frontend: no error")
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer(strings.TrimPrefix(d.cfg.DebugAddress, "unix://")), DisableKeepAlives: true}}
	for path, want := range map[string]string{
		"/metrics":      `buildkit_builds_total{error_code="",status="success"} 1`,
		"/debug/vars":   "memstats",
		"/debug/pprof/": "goroutine",
	} {
		resp, err := client.Get("http://debug" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s has no %s, error %v", path, want, err)
		}
	}
}

func TestShutdownDoesNotWaitForSilentClients(t *testing.T) {
	t.Parallel()
	d := start(t)
	if _, err := d.control.Info(t.Context(), &controlapi.InfoRequest{}); err != nil {
		t.Fatal(err)
	}
	silent, err := dialer(strings.TrimPrefix(d.cfg.Addresses[0], "unix://"))(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	time.Sleep(100 * time.Millisecond) // until it is accepted
	start := time.Now()
	d.stop()
	if took := time.Since(start); took > drainTime {
		t.Errorf("shutting down took %v", took)
	}
}

func TestShutdownCancelsBuilds(t *testing.T) {
	t.Parallel()
	d := start(t)
	done := make(chan error)
	go func() {
		_, err := d.control.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r"})
		done <- err
	}()
	if _, err := d.bridge.Ping(byRef(t.Context(), "r"), &gwpb.PingRequest{}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	d.stop()
	if err := grpcerrors.FromGRPC(<-done); err == nil || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("the build: %v", err)
	}
	if took := time.Since(start); took > drainTime {
		t.Errorf("shutting down took %v", took)
	}
}
