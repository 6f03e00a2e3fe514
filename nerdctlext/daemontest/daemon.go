// Package daemontest is a daemon for the tests of clients: it speaks the control and the
// bridge API on a real socket and holds real sessions, but what a build does is the
// test's to say.
package daemontest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Daemon answers every call of the two APIs from its fields, which a test sets before the
// first call.
type Daemon struct {
	controlapi.UnimplementedControlServer

	// Compute makes the result of a build; nil is an empty one.
	Compute func(ctx context.Context, client session.Caller, request *gatewaypb.SolveRequest) (*gatewaypb.Result, error)
	// Export sends the outputs and returns the answer of the exporters.
	Export func(ctx context.Context, client session.Caller, request *controlapi.SolveRequest) (map[string]string, error)
	// Progress is sent for every build.
	Progress []*controlapi.StatusResponse
	// HoldStatus, if it is set, has the progress of a build go on until it is closed.
	HoldStatus chan struct{}
	// Workers, Usage and History are what the daemon has.
	Workers []*apitypes.WorkerRecord
	Usage   []*controlapi.UsageRecord
	History []*controlapi.BuildHistoryEvent

	address  string
	sessions *session.Manager
	mu       sync.Mutex
	builds   map[string]*running
	// Pruned and Updated are the requests that came.
	Pruned  []*controlapi.PruneRequest
	Updated []*controlapi.UpdateBuildHistoryRequest
}

type running struct {
	registered, done chan struct{}
	request          *controlapi.SolveRequest
	returned         chan *gatewaypb.ReturnRequest
}

// Start runs a daemon until the test ends.
func Start(t testing.TB, options ...grpc.ServerOption) *Daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "kiln") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "d.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return Serve(t, listener, "unix://"+path, options...)
}

// Serve runs a daemon on the listener, which clients reach at address.
func Serve(t testing.TB, listener net.Listener, address string, options ...grpc.ServerOption) *Daemon {
	t.Helper()
	sessions, err := session.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{address: address, sessions: sessions, builds: map[string]*running{}}
	options = append(options, grpc.UnaryInterceptor(grpcerrors.UnaryServerInterceptor), grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor))
	server := grpc.NewServer(options...)
	controlapi.RegisterControlServer(server, d)
	gatewaypb.RegisterLLBBridgeServer(server, bridge{daemon: d})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return d
}

// Address is where clients reach the daemon.
func (d *Daemon) Address() string { return d.address }

// build returns the build ref, registered or not.
func (d *Daemon) build(ref string) *running {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.builds[ref]
	if b == nil {
		b = &running{registered: make(chan struct{}), done: make(chan struct{}), returned: make(chan *gatewaypb.ReturnRequest, 1)}
		d.builds[ref] = b
	}
	return b
}

// Solve holds the build open until its result is returned, and exports it.
func (d *Daemon) Solve(ctx context.Context, request *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
	b := d.build(request.Ref)
	defer close(b.done)
	b.request = request
	close(b.registered)
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case returned := <-b.returned:
		if returned.Error != nil {
			return nil, status.FromProto(returned.Error).Err()
		}
	}
	if d.Export == nil {
		return &controlapi.SolveResponse{}, nil
	}
	client, err := d.client(ctx, request.Session)
	if err != nil {
		return nil, err
	}
	response, err := d.Export(ctx, client, request)
	return &controlapi.SolveResponse{ExporterResponse: response}, err
}

func (d *Daemon) client(ctx context.Context, id string) (session.Caller, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return d.sessions.Get(ctx, id, false)
}

// Status sends the progress and ends with the build.
func (d *Daemon) Status(request *controlapi.StatusRequest, stream controlapi.Control_StatusServer) error {
	if err := stream.SendHeader(metadata.Pairs("buildkit-current-timestamp", time.Now().Format(time.RFC3339Nano))); err != nil {
		return err
	}
	for _, message := range d.Progress {
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	ended := d.build(request.Ref).done
	if d.HoldStatus != nil {
		ended = d.HoldStatus
	}
	select {
	case <-ended:
		return nil
	case <-stream.Context().Done():
		return context.Cause(stream.Context())
	}
}

// Session serves one client's session.
func (d *Daemon) Session(stream controlapi.Control_SessionServer) error {
	conn, closed, options := grpchijack.Hijack(stream)
	defer conn.Close()
	ctx, cancel := context.WithCancel(stream.Context())
	go func() {
		<-closed
		cancel()
	}()
	return d.sessions.HandleConn(ctx, conn, options)
}

// bridged returns the build that a call of the bridge belongs to.
func (d *Daemon) bridged(ctx context.Context) (*running, error) {
	headers, _ := metadata.FromIncomingContext(ctx)
	ids := headers.Get("buildkit-controlapi-buildid")
	if len(ids) != 1 {
		return nil, fmt.Errorf("no buildid found in context")
	}
	b := d.build(ids[0])
	select {
	case <-b.registered:
		return b, nil
	case <-time.After(3 * time.Second):
		return nil, status.Errorf(codes.NotFound, "no such job %s", ids[0])
	}
}
