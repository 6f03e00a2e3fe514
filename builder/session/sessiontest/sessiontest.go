// Package sessiontest opens real sessions in tests: a client's side as clients
// make it, over a connection that is tunnelled through a gRPC stream.
package sessiontest

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/session"
	controlapi "github.com/moby/buildkit/api/services/control"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/grpchijack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Open connects a client that offers the services, and waits until the manager
// has it. The session ends with the test or when stop is called.
func Open(t testing.TB, m *session.Manager, sharedKey string, offers ...bksession.Attachable) (c *session.Client, stop func()) {
	t.Helper()
	dial := serve(t, m)
	s, err := bksession.NewSession(context.Background(), sharedKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range offers {
		s.Allow(o)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(context.Background(), dial)
	}()
	stop = func() {
		s.Close()
		<-done
	}
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err = m.Get(ctx, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	return c, stop
}

// serve runs a control server that knows sessions only.
func serve(t testing.TB, m *session.Manager) bksession.Dialer {
	t.Helper()
	addr := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	controlapi.RegisterControlServer(srv, &control{m: m})
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	cc, err := grpc.NewClient("unix://"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return grpchijack.Dialer(controlapi.NewControlClient(cc))
}

type control struct {
	controlapi.UnimplementedControlServer
	m *session.Manager
}

func (c *control) Session(stream controlapi.Control_SessionServer) error {
	conn, closed, headers := grpchijack.Hijack(stream)
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		select {
		case <-closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return c.m.Serve(ctx, conn, headers)
}
