package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/export"
	"github.com/kiln-build/kiln/builder/export/assemble"
	controlapi "github.com/moby/buildkit/api/services/control"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestSolveTranslatesTheRequest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		req  *controlapi.SolveRequest
		want builder.Request
	}{
		"plain": {
			&controlapi.SolveRequest{
				Session: "s", Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{"target": "x"},
				Definition: &pb.Definition{Def: [][]byte{{1}}}, FrontendInputs: map[string]*pb.Definition{"in": {}},
				Exporters:            []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"name": "n"}}, {Type: "local"}},
				ExporterDeprecated:   "image",
				Entitlements:         []string{"network.host"},
				CompatibilityVersion: 20,
			},
			builder.Request{
				Session: "s", Frontend: "dockerfile.v0", Attrs: map[string]string{"target": "x"},
				Definition: &pb.Definition{Def: [][]byte{{1}}}, Inputs: map[string]*pb.Definition{"in": {}},
				Exporters: []export.Target{
					{ID: 0, Type: "image", Attrs: map[string]string{"name": "n"}, Session: "s", Compatibility: 20},
					{ID: 1, Type: "local", Attrs: map[string]string{}, Session: "s", Compatibility: 20},
				},
				Entitlements: []string{"network.host"},
			},
		},
		"deprecated fields": {
			&controlapi.SolveRequest{ExporterDeprecated: "tar", ExporterAttrsDeprecated: map[string]string{"a": "b"}},
			builder.Request{Exporters: []export.Target{{Type: "tar", Attrs: map[string]string{"a": "b"}}}},
		},
		"epoch": {
			&controlapi.SolveRequest{
				FrontendAttrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "7"},
				Exporters:     []*controlapi.Exporter{{Type: "oci"}, {Type: "image", Attrs: map[string]string{"source-date-epoch": "8"}}},
			},
			builder.Request{
				Attrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "7"},
				Exporters: []export.Target{
					{Type: "oci", Attrs: map[string]string{"source-date-epoch": "7"}},
					{ID: 1, Type: "image", Attrs: map[string]string{"source-date-epoch": "8"}},
				},
			},
		},
		"exporters of the session": {
			&controlapi.SolveRequest{
				Session: "s", CompatibilityVersion: 20, EnableSessionExporter: true,
				FrontendAttrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "7"},
				Exporters:     []*controlapi.Exporter{{Type: "oci", Attrs: map[string]string{"source-date-epoch": "8"}}},
			},
			builder.Request{
				Session: "s", Attrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "7"},
				Exporters: []export.Target{
					{Type: "oci", Session: "s", Compatibility: 20, Attrs: map[string]string{"source-date-epoch": "8"}},
				},
				SessionTarget: &export.Target{ID: 1, Session: "s", Compatibility: 20, Attrs: map[string]string{"source-date-epoch": "7"}},
			},
		},
		"an epoch that is none": {
			&controlapi.SolveRequest{
				FrontendAttrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "today"},
				Exporters:     []*controlapi.Exporter{{Type: "oci"}},
			},
			builder.Request{
				Attrs:     map[string]string{"build-arg:SOURCE_DATE_EPOCH": "today"},
				Exporters: []export.Target{{Type: "oci", Attrs: map[string]string{}}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &script{}
			f := serve(t, b)
			c.req.Ref, c.want.Ref = "r", "r"
			if _, _, err := f.solve(t, c.req); err != nil {
				t.Fatal(err)
			}
			got := b.request
			if !proto.Equal(got.Definition, c.want.Definition) || len(got.Inputs) != len(c.want.Inputs) {
				t.Errorf("definition %v, inputs %v", got.Definition, got.Inputs)
			}
			got.Definition, got.Inputs, c.want.Definition, c.want.Inputs = nil, nil, nil, nil
			if len(got.Entitlements) == 0 {
				got.Entitlements = nil
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("\n got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestSolveRefuses(t *testing.T) {
	t.Parallel()
	f := serve(t, &script{})
	export := func(kind string) *controlapi.CacheOptions {
		return &controlapi.CacheOptions{Exports: []*controlapi.CacheOptionsEntry{{Type: kind}}}
	}
	for _, c := range []struct {
		req  *controlapi.SolveRequest
		want string
	}{
		{&controlapi.SolveRequest{CompatibilityVersion: 40}, "unsupported compatibility-version 40: upgrade buildkit (max supported: 30)"},
		{&controlapi.SolveRequest{CompatibilityVersion: 11}, "unsupported compatibility-version 11 (supported: [10 20 30])"},
		{&controlapi.SolveRequest{Entitlements: []string{"security.insecure"}}, "granting entitlement security.insecure is not allowed by build daemon configuration"},
		{&controlapi.SolveRequest{Entitlements: []string{"all"}}, "unknown entitlement all"},
		{&controlapi.SolveRequest{Cache: export("inline")}, "failed to configure inline cache exporter"},
		{&controlapi.SolveRequest{Cache: export("tape")}, `unknown cache exporter: "tape"`},
		{&controlapi.SolveRequest{Cache: &controlapi.CacheOptions{ExportRefDeprecated: "r"}}, "failed to configure registry cache exporter"},
		{&controlapi.SolveRequest{FrontendAttrs: map[string]string{"attest:sbom": ""}}, "SBOM attestations are not supported"},
		{&controlapi.SolveRequest{FrontendAttrs: map[string]string{"build-arg:BUILDKIT_ATTEST_X": ""}}, `unknown attestation type "x"`},
	} {
		c.req.Ref = "r"
		if _, rec, err := f.solve(t, c.req); err == nil || !strings.Contains(err.Error(), c.want) || rec != nil {
			t.Errorf("%v: error %v, record %v", c.req, err, rec)
		}
	}
	if _, err := f.Solve(t.Context(), &controlapi.SolveRequest{}); err == nil || !strings.Contains(err.Error(), "no ref") {
		t.Errorf("no ref: %v", err)
	}
}

func TestNilFields(t *testing.T) {
	t.Parallel()
	s := serve(t, &script{}).server
	o, err := s.translate(&controlapi.SolveRequest{
		Ref:       "r",
		Exporters: []*controlapi.Exporter{nil},
		Cache:     &controlapi.CacheOptions{Exports: []*controlapi.CacheOptionsEntry{nil}, Imports: []*controlapi.CacheOptionsEntry{nil}},
	})
	if err != nil || len(o.request.Exporters) != 1 || len(o.warnings) != 0 {
		t.Errorf("%+v, error %v", o, err)
	}
}

func TestSolveWarns(t *testing.T) {
	t.Parallel()
	f := serve(t, &script{})
	_, rec, err := f.solve(t, &controlapi.SolveRequest{
		Ref:           "r",
		FrontendAttrs: map[string]string{"attest:provenance": "mode=min"},
		Cache: &controlapi.CacheOptions{
			ImportRefsDeprecated: []string{"example.com/cache"},
			Imports:              []*controlapi.CacheOptionsEntry{{Type: "local"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if rec.NumWarnings != 3 || rec.NumTotalSteps != 3 {
		t.Errorf("record %v", rec)
	}
	var names []string
	for _, v := range f.follow(t, "r").Vertexes {
		names = append(names, v.Name)
	}
	for _, want := range []string{"importing cache manifest from example.com/cache", "importing cache manifest from local"} {
		if !strings.Contains(strings.Join(names, "\n"), want) {
			t.Errorf("steps %q have no %q", names, want)
		}
	}
}

func TestSolveRecordsABuild(t *testing.T) {
	t.Parallel()
	made := ocispec.Descriptor{MediaType: "m", Digest: digest.FromString("image"), Size: 5}
	f := serve(t, &script{build: func(_ context.Context, _ builder.Request, sink event.Sink) (*builder.Response, error) {
		now := time.Now()
		sink.Emit(&event.Vertex{Digest: digest.FromString("a"), Started: &now, Completed: &now, Cached: true})
		sink.Emit(&event.Vertex{Digest: digest.FromString("b")})
		return &builder.Response{Exporter: map[string]string{"k": "v"}, Descriptors: map[int]ocispec.Descriptor{1: made},
			Documents: []assemble.Document{{Desc: made, Data: []byte("image")}}}, nil
	}})
	resp, rec, err := f.solve(t, &controlapi.SolveRequest{
		Ref: "r", Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{"target": "t"},
		Exporters: []*controlapi.Exporter{{Type: "local"}, {Type: "image"}},
	})
	if err != nil || resp.ExporterResponse["k"] != "v" {
		t.Fatalf("response %v, error %v", resp, err)
	}
	if rec == nil || rec.Frontend != "dockerfile.v0" || rec.FrontendAttrs["target"] != "t" || len(rec.Exporters) != 2 {
		t.Fatalf("record %v", rec)
	}
	if rec.NumTotalSteps != 2 || rec.NumCompletedSteps != 1 || rec.NumCachedSteps != 1 || rec.Error != nil || rec.ExporterResponse["k"] != "v" {
		t.Errorf("record %v", rec)
	}
	if d := rec.Result.GetResults()[1]; d.GetDigest() != made.Digest.String() || !proto.Equal(d, rec.Result.ResultDeprecated) {
		t.Errorf("result %v", rec.Result)
	}
	if info, err := f.history.Info(t.Context(), made.Digest); err != nil || info.Size != made.Size {
		t.Errorf("the image's description: %v, %v", info, err)
	}
	if got := <-f.ended; got.Ref != "r" {
		t.Errorf("ended: %v", got)
	}
}

func TestSolveRecordsAFailure(t *testing.T) {
	t.Parallel()
	step := digest.FromString("step")
	f := serve(t, &script{build: func(context.Context, builder.Request, event.Sink) (*builder.Response, error) {
		return nil, solvererrors.WrapVertex(fmt.Errorf("the file: %w", errdefs.ErrNotFound), step)
	}})
	_, rec, err := f.solve(t, &controlapi.SolveRequest{Ref: "r"})
	var vertex *solvererrors.VertexError
	if !errors.As(err, &vertex) || vertex.Digest != step.String() {
		t.Errorf("error %#v has no vertex", err)
	}
	// A file that is missing within a build does not make the call NotFound.
	if code := grpcstatus.Code(err); code != codes.Unknown {
		t.Errorf("code %v", code)
	}
	if rec.GetError().GetMessage() != "the file: not found" || len(rec.Error.Details) != 0 {
		t.Fatalf("record %v", rec)
	}
	ra, err := f.history.ReaderAt(t.Context(), ocispec.Descriptor{Digest: digest.Digest(rec.ExternalError.Digest)})
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	data, err := io.ReadAll(content.NewReader(ra))
	if err != nil {
		t.Fatal(err)
	}
	whole := &rpc.Status{}
	if err := proto.Unmarshal(data, whole); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, d := range whole.Details {
		found = found || d.TypeUrl == "github.com/moby/buildkit/errdefs.Vertex+json"
	}
	if !found || rec.ExternalError.MediaType != "application/vnd.googeapis.google.rpc.status+proto" {
		t.Errorf("external error %v: %v", rec.ExternalError, whole)
	}
}

func TestAPanicEndsTheBuildOnly(t *testing.T) {
	t.Parallel()
	f := serve(t, &script{build: func(context.Context, builder.Request, event.Sink) (*builder.Response, error) {
		panic("oops")
	}})
	for range 2 {
		_, rec, err := f.solve(t, &controlapi.SolveRequest{Ref: "r"})
		if err == nil || !strings.Contains(err.Error(), "internal error: oops") || rec.GetError() == nil {
			t.Errorf("error %v, record %v", err, rec)
		}
	}
}

func TestInternalBuildsAreNotRecorded(t *testing.T) {
	t.Parallel()
	f := serve(t, &script{})
	if _, rec, err := f.solve(t, &controlapi.SolveRequest{Ref: "r", Internal: true}); err != nil || rec != nil {
		t.Errorf("error %v, record %v", err, rec)
	}
}

// waiting is a builder whose builds run until they are cancelled.
func waiting() (*script, chan struct{}) {
	running := make(chan struct{}, 10)
	return &script{build: func(ctx context.Context, _ builder.Request, sink event.Sink) (*builder.Response, error) {
		now := time.Now()
		sink.Emit(&event.Vertex{Digest: digest.FromString("a"), Name: "wait", Started: &now})
		running <- struct{}{}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}}, running
}

func TestRefsAreUnique(t *testing.T) {
	t.Parallel()
	b, running := waiting()
	f := serve(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := f.Solve(ctx, &controlapi.SolveRequest{Ref: "r"})
		done <- err
	}()
	<-running
	if _, err := f.Solve(t.Context(), &controlapi.SolveRequest{Ref: "r"}); err == nil || !strings.Contains(err.Error(), `"r" is running`) {
		t.Errorf("a second build with the ref: %v", err)
	}
	cancel()
	if err := <-done; grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("the cancelled build: %v", err)
	}
	rec := <-f.ended
	if rec.Error.GetCode() != int32(codes.Canceled) {
		t.Errorf("record %v", rec)
	}
}

func TestCloseCancelsBuilds(t *testing.T) {
	t.Parallel()
	b, running := waiting()
	f := serve(t, b)
	done := make(chan error)
	go func() {
		_, err := f.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r"})
		done <- err
	}()
	<-running
	if err := f.server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "shutting down") || grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("the build: %v", err)
	}
	if _, err := f.Solve(t.Context(), &controlapi.SolveRequest{Ref: "s"}); err == nil || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("a build after Close: %v", err)
	}
	// No log is left open.
	for _, fd := range openFiles(t) {
		if strings.Contains(fd, t.Name()) && !strings.HasSuffix(fd, "/s") {
			t.Errorf("still open: %s", fd)
		}
	}
}

func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			all = append(all, name)
		}
	}
	return all
}
