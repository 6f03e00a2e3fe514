package control

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/plugin/history"
	"github.com/kiln-build/kiln/plugin/status"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/grpcerrors"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// script is a builder that does what a test says. The real one is used in the
// daemon's tests.
type script struct {
	build func(ctx context.Context, req builder.Request, sink event.Sink) (*builder.Response, error)
	usage []cache.Usage

	mu      sync.Mutex
	request builder.Request
	pruned  cache.PruneRequest
}

func (s *script) Build(ctx context.Context, req builder.Request, sink event.Sink) (*builder.Response, error) {
	s.mu.Lock()
	s.request = req
	s.mu.Unlock()
	if s.build == nil {
		return &builder.Response{}, nil
	}
	return s.build(ctx, req, sink)
}

func (s *script) Workers() []builder.Worker {
	return []builder.Worker{{
		ID:        "w1",
		Labels:    map[string]string{"com.example.rack": "7"},
		Platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}},
		Policies:  []cache.Policy{{All: true, KeepDuration: time.Hour, MaxUsedSpace: 5}},
	}}
}

func (s *script) DiskUsage(context.Context, []string) ([]cache.Usage, error) { return s.usage, nil }

func (s *script) Prune(_ context.Context, req cache.PruneRequest, removed func(cache.Usage)) error {
	s.mu.Lock()
	s.pruned = req
	s.mu.Unlock()
	for _, u := range s.usage {
		removed(u)
	}
	return nil
}

type fixture struct {
	controlapi.ControlClient
	server  *Server
	history *history.History
	ended   chan *controlapi.BuildHistoryRecord
}

// serve serves a builder on a socket.
func serve(t *testing.T, b Builder) *fixture {
	t.Helper()
	h, err := history.Open(history.Config{Root: filepath.Join(t.TempDir(), "history"), MaxEntries: 10, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	f := &fixture{history: h, ended: make(chan *controlapi.BuildHistoryRecord, 10)}
	f.server = New(Config{
		Builder:      b,
		Sessions:     session.NewManager(),
		History:      h,
		Entitlements: []string{"network.host"},
		Limits:       status.DefaultLimits,
		Version:      Version{"example.com/pkg", "v1.2.3", "abc"},
		Ended:        func(rec *controlapi.BuildHistoryRecord) { f.ended <- rec },
	})
	server := grpc.NewServer(grpc.UnaryInterceptor(grpcerrors.UnaryServerInterceptor), grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor))
	f.server.Register(server)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l)
	conn, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(grpcerrors.UnaryClientInterceptor), grpc.WithStreamInterceptor(grpcerrors.StreamClientInterceptor))
	if err != nil {
		t.Fatal(err)
	}
	f.ControlClient = controlapi.NewControlClient(conn)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.server.Close(ctx); err != nil {
			t.Error(err)
		}
		conn.Close()
		server.Stop()
	})
	return f
}

// solve does a request and returns its record where it has one.
func (f *fixture) solve(t *testing.T, req *controlapi.SolveRequest) (*controlapi.SolveResponse, *controlapi.BuildHistoryRecord, error) {
	t.Helper()
	resp, err := f.Solve(t.Context(), req)
	rec, _ := f.history.Get(req.Ref)
	return resp, rec, err
}
