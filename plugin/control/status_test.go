package control

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/event"
	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
)

// follow reads a build's status to its end.
func (f *fixture) follow(t *testing.T, ref string) *controlapi.StatusResponse {
	t.Helper()
	stream, err := f.Status(t.Context(), &controlapi.StatusRequest{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	return read(t, stream)
}

func read(t *testing.T, stream controlapi.Control_StatusClient) *controlapi.StatusResponse {
	t.Helper()
	all := &controlapi.StatusResponse{}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Errorf("status: %v", err)
			return all
		}
		all.Vertexes = append(all.Vertexes, m.Vertexes...)
		all.Logs = append(all.Logs, m.Logs...)
	}
}

// speaking is a builder whose builds say what they are.
func speaking() *script {
	return &script{build: func(_ context.Context, req builder.Request, sink event.Sink) (*builder.Response, error) {
		now := time.Now()
		id := digest.FromString(req.Ref)
		sink.Emit(&event.Vertex{Digest: id, Name: req.Ref, Started: &now})
		sink.Emit(&event.Log{Vertex: id, Stream: event.Stdout, Data: []byte("hello from " + req.Ref), Timestamp: now})
		sink.Emit(&event.Vertex{Digest: id, Name: req.Ref, Started: &now, Completed: &now})
		return &builder.Response{}, nil
	}}
}

func TestStatusBeforeAndAfterTheBuild(t *testing.T) {
	t.Parallel()
	f := serve(t, speaking())
	early, err := f.Status(t.Context(), &controlapi.StatusRequest{Ref: "r"})
	if err != nil {
		t.Fatal(err)
	}
	header, err := early.Header()
	if err != nil {
		t.Fatal(err)
	}
	if v := header.Get("buildkit-current-timestamp"); len(v) != 1 {
		t.Errorf("header %v", header)
	} else if at, err := time.Parse(time.RFC3339Nano, v[0]); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("time %s, error %v", v[0], err)
	}
	for _, internal := range []bool{false, true} {
		if _, err := f.Solve(t.Context(), &controlapi.SolveRequest{Ref: "r", Internal: internal}); err != nil {
			t.Fatal(err)
		}
		late := f.follow(t, "r")
		if len(late.Logs) != 1 || string(late.Logs[0].Msg) != "hello from r" {
			t.Errorf("internal %t: status after the build: %v", internal, late)
		}
	}
	if got := read(t, early); len(got.Logs) != 1 || got.Vertexes[len(got.Vertexes)-1].Completed == nil {
		t.Errorf("status asked for before the build: %v", got)
	}
}

func TestStatusFromHistory(t *testing.T) {
	t.Parallel()
	f := serve(t, speaking())
	if _, err := f.Solve(t.Context(), &controlapi.SolveRequest{Ref: "r"}); err != nil {
		t.Fatal(err)
	}
	before := f.follow(t, "r")
	f.server.runs.close() // as after some seconds
	after := f.follow(t, "r")
	if len(after.Vertexes) != len(before.Vertexes) || len(after.Logs) != 1 {
		t.Errorf("from history: %v", after)
	}
}

func TestStatusOfAnUnknownBuild(t *testing.T) {
	t.Parallel()
	f := serve(t, speaking())
	stream, err := f.Status(t.Context(), &controlapi.StatusRequest{Ref: "r"})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = stream.Recv()
	if grpcstatus.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "no such job r") {
		t.Errorf("error %v", err)
	}
	if waited := time.Since(start); waited < 5*time.Second {
		t.Errorf("after %v only", waited)
	}
}

func TestHistoryCalls(t *testing.T) {
	t.Parallel()
	f := serve(t, speaking())
	if _, err := f.Solve(t.Context(), &controlapi.SolveRequest{Ref: "r"}); err != nil {
		t.Fatal(err)
	}
	events := func() (kinds []string) {
		stream, err := f.ListenBuildHistory(t.Context(), &controlapi.BuildHistoryRequest{Ref: "r", EarlyExit: true})
		if err != nil {
			t.Fatal(err)
		}
		if header, err := stream.Header(); err != nil || len(header.Get("buildkit-current-timestamp")) != 1 {
			t.Errorf("header %v, error %v", header, err)
		}
		for {
			e, err := stream.Recv()
			if err != nil {
				return kinds
			}
			kinds = append(kinds, e.Type.String())
			if e.Record.Pinned {
				kinds = append(kinds, "pinned")
			}
		}
	}
	update := func(req *controlapi.UpdateBuildHistoryRequest) {
		t.Helper()
		req.Ref = "r"
		if _, err := f.UpdateBuildHistory(t.Context(), req); err != nil {
			t.Error(err)
		}
	}
	update(&controlapi.UpdateBuildHistoryRequest{Finalize: true})
	update(&controlapi.UpdateBuildHistoryRequest{Pinned: true})
	if got := strings.Join(events(), " "); got != "COMPLETE pinned" {
		t.Errorf("events %s", got)
	}
	update(&controlapi.UpdateBuildHistoryRequest{Delete: true})
	if got := events(); len(got) != 0 {
		t.Errorf("events %v", got)
	}
}

func TestManyBuildsAtOnce(t *testing.T) {
	t.Parallel()
	f := serve(t, speaking())
	const n = 20
	done := make(chan string, n)
	for i := range n {
		ref := string(rune('a' + i))
		go func() {
			stream, err := f.Status(t.Context(), &controlapi.StatusRequest{Ref: ref})
			if err != nil {
				t.Error(err)
			}
			if _, err := f.Solve(t.Context(), &controlapi.SolveRequest{Ref: ref}); err != nil {
				t.Error(err)
			}
			var out strings.Builder
			for _, l := range read(t, stream).Logs {
				out.Write(l.Msg)
			}
			if want := "hello from " + ref; out.String() != want {
				t.Errorf("build %s said %q", ref, out.String())
			}
			<-f.ended
			done <- ref
		}()
	}
	for range n {
		<-done
	}
}
