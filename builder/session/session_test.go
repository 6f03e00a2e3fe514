package session_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"google.golang.org/grpc"
)

func TestSharedKeyAndMethods(t *testing.T) {
	t.Parallel()
	m := session.NewManager()
	c, _ := sessiontest.Open(t, m, "schlüssel:/x", secretsprovider.FromMap(nil))
	if c.SharedKey() != "schlüssel:/x" {
		t.Errorf("shared key %q", c.SharedKey())
	}
	if !c.Supports("/moby.buildkit.secrets.v1.Secrets/GETSECRET") || c.Supports("/moby.buildkit.secrets.v1.Secrets/Other") {
		t.Error("wrong methods")
	}
	if ids := m.IDs(); len(ids) != 1 || ids[0] != c.ID() {
		t.Errorf("ids %v", ids)
	}
	if got, err := m.Get(t.Context(), "prefix:"+c.ID()); err != nil || got != c {
		t.Errorf("with a prefix: %v, %v", got, err)
	}
}

func TestEndOfSession(t *testing.T) {
	t.Parallel()
	m := session.NewManager()
	c, stop := sessiontest.Open(t, m, "", secretsprovider.FromMap(map[string][]byte{"a": []byte("b")}))
	stop()
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the session's end goes unnoticed")
	}
	if _, err := c.Secret(t.Context(), "a"); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "was lost") {
		t.Errorf("secret of a lost session: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := m.Get(ctx, c.ID())
	if !errdefs.IsNotFound(err) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no active session for "+c.ID()) {
		t.Errorf("lost session: %v", err)
	}
}

func TestAnySession(t *testing.T) {
	t.Parallel()
	m := session.NewManager()
	a, _ := sessiontest.Open(t, m, "", secretsprovider.FromMap(map[string][]byte{"a": []byte("1")}))
	b, stopB := sessiontest.Open(t, m, "", secretsprovider.FromMap(map[string][]byte{"b": []byte("2")}))
	ctx := t.Context()
	for id, want := range map[string]string{"a": "1", "b": "2"} {
		if got, err := m.Secret(ctx, []string{"gone", a.ID(), b.ID()}, id); err != nil || string(got) != want {
			t.Errorf("secret %s: %q, %v", id, got, err)
		}
	}
	if _, err := m.Secret(ctx, []string{a.ID(), b.ID()}, "c"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "secret c: not found") {
		t.Errorf("absent secret: %v", err)
	}
	if _, err := m.Secret(ctx, nil, "c"); !errdefs.IsNotFound(err) {
		t.Errorf("secret without sessions: %v", err)
	}
	if err := m.Any(ctx, nil, nil); !errdefs.IsNotFound(err) {
		t.Errorf("no sessions: %v", err)
	}
	stopB()
	<-b.Done()
	if got, err := m.Secret(ctx, []string{b.ID(), a.ID()}, "a"); err != nil || string(got) != "1" {
		t.Errorf("with a lost session: %q, %v", got, err)
	}
}

// hijacked is the peer of a session that is made of nothing but a socket.
func hijacked(t *testing.T, m *session.Manager, headers map[string][]string) (net.Conn, chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	served := make(chan error, 1)
	go func() { served <- m.Serve(t.Context(), ours, headers) }()
	return theirs, served
}

func TestHostileHeaders(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string]map[string][]string{
		"none":         nil,
		"empty id":     {"x-docker-expose-session-uuid": {""}},
		"many methods": {"x-docker-expose-session-uuid": {"i"}, "X-Docker-Expose-Session-Grpc-Method": make([]string, 1<<16)},
	} {
		m := session.NewManager()
		peer, served := hijacked(t, m, headers)
		if err := <-served; !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := peer.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the connection stays open", name)
		}
		if len(m.IDs()) != 0 {
			t.Errorf("%s: a session stays", name)
		}
	}
}

func TestClientThatSaysNothing(t *testing.T) {
	t.Parallel()
	m := session.NewManager()
	peer, served := hijacked(t, m, map[string][]string{
		"x-docker-expose-session-uuid":             {"mute"},
		"x-buildkit-session-health-custom-timeout": {"1"},
	})
	go func() { // takes all bytes, never answers
		b := make([]byte, 1024)
		for {
			if _, err := peer.Read(b); err != nil {
				return
			}
		}
	}()
	select {
	case err := <-served:
		if err == nil || !strings.Contains(err.Error(), "mute") {
			t.Errorf("served: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a mute client is waited for")
	}
}

func TestClientThatHangsUp(t *testing.T) {
	t.Parallel()
	m := session.NewManager()
	peer, served := hijacked(t, m, map[string][]string{"x-docker-expose-session-uuid": {"x"}})
	c, err := m.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	peer.Close()
	if err := <-served; err != nil {
		t.Errorf("served: %v", err)
	}
	<-c.Done()
}

func TestReplacedSession(t *testing.T) {
	t.Parallel()
	m := session.NewManager()
	headers := map[string][]string{"x-docker-expose-session-uuid": {"same"}}
	first, served := hijacked(t, m, headers)
	a, err := m.Get(t.Context(), "same")
	if err != nil {
		t.Fatal(err)
	}
	hijacked(t, m, headers)
	var b *session.Client
	for b == nil || b == a {
		if b, err = m.Get(t.Context(), "same"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	first.Close()
	<-served
	if c, err := m.Get(t.Context(), "same"); err != nil || c != b {
		t.Errorf("the end of the first session took the second with it: %v", err)
	}
}

func TestServeEndsWithContext(t *testing.T) {
	t.Parallel()
	m := session.NewManager()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Serve(ctx, ours, map[string][]string{"x-docker-expose-session-uuid": {"x"}}); err != nil {
		t.Errorf("served: %v", err)
	}
	if _, err := theirs.Read(make([]byte, 1)); err == nil {
		// what gRPC wrote before it noticed may come first
		theirs.SetReadDeadline(time.Now().Add(10 * time.Second))
		for err == nil {
			_, err = theirs.Read(make([]byte, 1024))
		}
	}
}

func TestAbsentServices(t *testing.T) {
	t.Parallel()
	m := session.NewManager()
	c, _ := sessiontest.Open(t, m, "", nothing{})
	ctx := t.Context()
	_, errFiles := c.Files(ctx, session.FileRequest{Name: "context"})
	_, errContent := c.Content("local:x")
	_, errSend := c.SendFile(ctx, session.Output{})
	_, errKey := c.TokenAuthority(ctx, "h")
	_, errFind := c.FindExporters(ctx, nil, nil)
	for what, err := range map[string]error{
		"files": errFiles, "content": errContent, "send": errSend, "key": errKey, "find": errFind,
		"dir": c.SendDir(ctx, session.Output{}, nil, nil), "finalize": c.FinalizeExport(ctx, nil),
	} {
		if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "the client doesn't offer") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := c.Secret(ctx, "x"); !errdefs.IsNotFound(err) {
		t.Errorf("secret: %v", err)
	}
	if err := c.CheckSSH(ctx, ""); !errdefs.IsNotFound(err) {
		t.Errorf("ssh: %v", err)
	}
	if cred, err := c.Credentials(ctx, "h"); err != nil || cred != (session.Credentials{}) {
		t.Errorf("credentials: %v, %v", cred, err)
	}
}

type nothing struct{}

func (nothing) Register(*grpc.Server) {}

var _ bksession.Attachable = nothing{}

// TestNothingIsLeft isn't parallel: it counts goroutines.
func TestNothingIsLeft(t *testing.T) {
	m := session.NewManager()
	before := runtime.NumGoroutine()
	t.Run("sessions", func(t *testing.T) {
		for range 20 {
			c, stop := sessiontest.Open(t, m, "", secretsprovider.FromMap(map[string][]byte{"a": []byte("b")}))
			if _, err := c.Secret(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			stop()
			<-c.Done()
		}
	})
	deadline := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > before+2 {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(10 * time.Millisecond)
	}
	if ids := m.IDs(); len(ids) != 0 {
		t.Errorf("sessions are left: %v", ids)
	}
}
