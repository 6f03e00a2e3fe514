package control

import (
	"context"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"google.golang.org/grpc/metadata"
)

func TestSession(t *testing.T) {
	t.Parallel()
	f := serve(t, &script{})
	s, err := bksession.NewSession(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 400<<10)
	s.Allow(secretsprovider.FromMap(map[string][]byte{"pass": large}))
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background(), grpchijack.Dialer(f.ControlClient)) }()
	c, err := f.server.cfg.Sessions.Get(t.Context(), s.ID())
	if err != nil {
		t.Fatal(err)
	}
	if c.SharedKey() != "key" {
		t.Errorf("shared key %q", c.SharedKey())
	}
	secret, err := c.Secret(t.Context(), "pass")
	if err != nil || len(secret) != len(large) {
		t.Errorf("a secret of %d bytes, error %v", len(secret), err)
	}
	s.Close()
	if err := <-done; err != nil {
		t.Errorf("the client's end: %v", err)
	}
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Error("the session is still open here")
	}
}

func TestTheServerEndsSessions(t *testing.T) {
	t.Parallel()
	f := serve(t, &script{})
	s, err := bksession.NewSession(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background(), grpchijack.Dialer(f.ControlClient)) }()
	if _, err := f.server.cfg.Sessions.Get(t.Context(), s.ID()); err != nil {
		t.Fatal(err)
	}
	if err := f.server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the client's end is still open")
	}
}

func TestAHangingClientLosesItsSession(t *testing.T) {
	t.Parallel()
	f := serve(t, &script{})
	ctx := metadata.AppendToOutgoingContext(t.Context(),
		"x-docker-expose-session-uuid", "hangs", "x-docker-expose-session-grpc-method", "/moby.buildkit.secrets.v1.Secrets/GetSecret",
		"x-buildkit-session-health-custom-timeout", "1000")
	stream, err := f.Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.server.cfg.Sessions.Get(t.Context(), "hangs")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	go func() {
		_, err := c.Secret(context.Background(), "pass")
		asked <- err
	}()
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	for name, what := range map[string]chan error{"the call to the client": asked, "the session": ended} {
		select {
		case err := <-what:
			if err == nil {
				t.Errorf("%s: no error", name)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s has not ended", name)
		}
	}
}

func TestASessionNeedsAnID(t *testing.T) {
	t.Parallel()
	f := serve(t, &script{})
	stream, err := f.Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&controlapi.BytesMessage{Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("no error")
	}
}
