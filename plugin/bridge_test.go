package plugin

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func dialer(socket string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
}

// byRef says which build a call is about.
func byRef(ctx context.Context, refs ...string) context.Context {
	for _, ref := range refs {
		ctx = metadata.AppendToOutgoingContext(ctx, "buildkit-controlapi-buildid", ref)
	}
	return ctx
}

// drive begins a build that the test drives and returns the result of Solve.
func (d *running) drive(t *testing.T, req *controlapi.SolveRequest) (context.Context, <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := d.control.Solve(t.Context(), req)
		done <- grpcerrors.FromGRPC(err)
	}()
	ctx := byRef(t.Context(), req.Ref)
	pong, err := d.bridge.Ping(ctx, &gwpb.PingRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(pong.FrontendAPICaps) == 0 || len(pong.LLBCaps) == 0 || len(pong.Workers) != 1 {
		t.Errorf("pong %v", pong)
	}
	return ctx, done
}

func TestClientDrivenBuild(t *testing.T) {
	t.Parallel()
	d := start(t)
	def := marshal(t, hello("hi"))
	ctx, done := d.drive(t, &controlapi.SolveRequest{Ref: "r", FrontendInputs: map[string]*pb.Definition{"in": def}})

	inputs, err := d.bridge.Inputs(ctx, &gwpb.InputsRequest{})
	if err != nil || len(inputs.Definitions["in"].GetDef()) != len(def.Def) {
		t.Errorf("inputs %v, error %v", inputs, err)
	}
	solved, err := d.bridge.Solve(ctx, &gwpb.SolveRequest{Definition: def, AllowResultReturn: true, AllowResultArrayRef: true})
	if err != nil {
		t.Fatal(err)
	}
	ref := solved.Result.GetRef()
	if ref.GetId() == "" || len(ref.GetDef().GetDef()) == 0 || solved.Ref != "" {
		t.Fatalf("result %v", solved)
	}
	if _, err := d.bridge.Evaluate(ctx, &gwpb.EvaluateRequest{Ref: ref.Id}); err != nil {
		t.Error(err)
	}
	file, err := d.bridge.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: ref.Id, FilePath: "hello", Range: &gwpb.FileRange{Offset: 1, Length: 1}})
	if err != nil || string(file.Data) != "i" {
		t.Errorf("file %v, error %v", file, err)
	}
	dir, err := d.bridge.ReadDir(ctx, &gwpb.ReadDirRequest{Ref: ref.Id, DirPath: "/"})
	if err != nil || len(dir.Entries) != 1 || dir.Entries[0].Path != "hello" {
		t.Errorf("directory %v, error %v", dir, err)
	}
	stat, err := d.bridge.StatFile(ctx, &gwpb.StatFileRequest{Ref: ref.Id, Path: "hello"})
	if err != nil || stat.Stat.Size != 2 {
		t.Errorf("stat %v, error %v", stat, err)
	}
	if _, err := d.bridge.Warn(ctx, &gwpb.WarnRequest{Digest: digest.FromString("x").String(), Short: []byte("look")}); err != nil {
		t.Error(err)
	}
	if _, err := d.bridge.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{
		Result: &gwpb.Result_Refs{Refs: &gwpb.RefMap{Refs: map[string]*gwpb.Ref{"linux/amd64": {Id: ref.Id}}}},
		Metadata: map[string][]byte{
			"frontend.note": []byte("n"), "other": nil,
			"refs.platforms": []byte(`{"Platforms":[{"ID":"linux/amd64","Platform":{"os":"linux","architecture":"amd64"}}]}`),
		},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if rec := d.record(t, "r"); rec.NumWarnings != 1 || rec.ExporterResponse["frontend.note"] != "n" {
		t.Errorf("record %v", rec)
	}
}

func TestOldClients(t *testing.T) {
	t.Parallel()
	d := start(t)
	ctx, done := d.drive(t, &controlapi.SolveRequest{Ref: "r", Internal: true})
	solved, err := d.bridge.Solve(ctx, &gwpb.SolveRequest{Definition: marshal(t, hello("hi"))})
	if err != nil || solved.Ref == "" || solved.Result.GetRefDeprecated() != solved.Ref {
		t.Errorf("result %v, error %v", solved, err)
	}
	empty, err := d.bridge.Solve(ctx, &gwpb.SolveRequest{})
	if err != nil || empty.Ref != "" {
		t.Errorf("result %v, error %v", empty, err)
	}
	if _, err := d.bridge.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{Result: &gwpb.Result_RefDeprecated{RefDeprecated: solved.Ref}}}); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestClientsReturnErrors(t *testing.T) {
	t.Parallel()
	d := start(t)
	ctx, done := d.drive(t, &controlapi.SolveRequest{Ref: "r"})
	step := digest.FromString("step")
	failure := solvererrors.WrapVertex(status.Error(codes.FailedPrecondition, "the frontend failed"), step)
	wire := status.Convert(grpcerrors.ToGRPC(ctx, failure)).Proto()
	if _, err := d.bridge.Return(ctx, &gwpb.ReturnRequest{Error: wire}); err != nil {
		t.Fatal(err)
	}
	err := <-done
	var vertex *solvererrors.VertexError
	if !errors.As(err, &vertex) || vertex.Digest != step.String() || status.Code(err) != codes.FailedPrecondition {
		t.Errorf("error %#v", err)
	}
	if rec := d.record(t, "r"); !strings.Contains(rec.Error.GetMessage(), "the frontend failed") || rec.Error.Code != int32(codes.FailedPrecondition) {
		t.Errorf("record %v", rec)
	}
}

func TestBadCalls(t *testing.T) {
	t.Parallel()
	d := start(t)
	for name, ctx := range map[string]context.Context{"none": t.Context(), "two": byRef(t.Context(), "a", "b"), "empty": byRef(t.Context(), "")} {
		if _, err := d.bridge.Ping(ctx, &gwpb.PingRequest{}); err == nil || !strings.Contains(err.Error(), "no buildid found in context") {
			t.Errorf("%s: %v", name, err)
		}
	}
	begun := time.Now()
	if _, err := d.bridge.Ping(byRef(t.Context(), "unknown"), &gwpb.PingRequest{}); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "no such job unknown") {
		t.Errorf("an unknown build: %v", err)
	}
	if waited := time.Since(begun); waited < 2*time.Second {
		t.Errorf("waited %v only", waited)
	}
	ctx, done := d.drive(t, &controlapi.SolveRequest{Ref: "r"})
	garbage := &pb.Definition{Def: [][]byte{[]byte("garbage")}}
	for name, call := range map[string]func() error{
		"definition":   func() error { _, err := d.bridge.Solve(ctx, &gwpb.SolveRequest{Definition: garbage}); return err },
		"frontend":     func() error { _, err := d.bridge.Solve(ctx, &gwpb.SolveRequest{Frontend: "x"}); return err },
		"reference":    func() error { _, err := d.bridge.Evaluate(ctx, &gwpb.EvaluateRequest{Ref: "x"}); return err },
		"no reference": func() error { _, err := d.bridge.ReadFile(ctx, &gwpb.ReadFileRequest{}); return err },
		"source":       func() error { _, err := d.bridge.ResolveSourceMeta(ctx, &gwpb.ResolveSourceMetaRequest{}); return err },
		"source scheme": func() error {
			_, err := d.bridge.ResolveSourceMeta(ctx, &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: "x"}})
			return err
		},
		"image": func() error {
			_, err := d.bridge.ResolveImageConfig(ctx, &gwpb.ResolveImageConfigRequest{Ref: ":"})
			return err
		},
		"empty return": func() error { _, err := d.bridge.Return(ctx, &gwpb.ReturnRequest{}); return err },
		"return of none": func() error {
			_, err := d.bridge.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{Result: &gwpb.Result_RefDeprecated{RefDeprecated: "x"}}})
			return err
		},
		"container": func() error { _, err := d.bridge.NewContainer(ctx, &gwpb.NewContainerRequest{}); return err },
	} {
		if err := call(); err == nil || status.Code(err) == codes.Internal {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := d.bridge.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{}}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
