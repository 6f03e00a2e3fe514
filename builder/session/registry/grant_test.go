package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
)

func TestGrant(t *testing.T) {
	t.Parallel()
	m := session.NewManager()
	r := registry.New(registry.Config{Retry: quick}, m)
	defer r.Close()
	ann, end := sessiontest.Open(t, m, "", passwords{user: "ann", password: "secret"})
	grant := r.Grant("a.example/b", []string{ann.ID(), "no such session"})
	c := registry.Challenge{Repository: "a.example/b", URL: "https://a.example/v2/b/blobs/x", Challenges: []string{`Basic realm="x"`}}
	header, err := r.AnswerGrant(t.Context(), grant, c)
	if err != nil || !strings.HasPrefix(header, "Basic ") {
		t.Errorf("%q, %v", header, err)
	}
	if again := r.Grant("a.example/b", nil); again != grant {
		t.Errorf("another name: %s", again)
	}
	refused := c
	refused.Refused = header
	other := c
	other.Repository = "a.example/other"
	for what, try := range map[string]struct {
		grant string
		c     registry.Challenge
	}{"refused": {grant, refused}, "another repository": {grant, other}, "unknown": {r.Grant("a.example/c", nil), c}} {
		if h, err := r.AnswerGrant(t.Context(), try.grant, try.c); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %q, %v", what, h, err)
		}
	}
	end()
	for limit := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err = r.AnswerGrant(t.Context(), grant, c); err != nil || time.Now().After(limit) {
			break
		}
	}
	if !errdefs.IsNotFound(err) {
		t.Errorf("after the session: %v", err)
	}
}
