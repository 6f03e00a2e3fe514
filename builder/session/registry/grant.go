package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
)

// grants are the sessions whose credentials may be used, beside the builds that
// they began, for what those builds mounted lazily.
type grants struct {
	mu       sync.Mutex
	sessions map[string][]string // by grant; those that have not ended
}

// Grant lets what is mounted lazily out of a repository (HOST/PATH) be fetched
// with the credentials of the sessions, which have shown that they may read it,
// until they end: see AnswerGrant. The grant's name is the same for everybody who
// may read the repository, and always, so that it is good for what was mounted
// before.
func (r *Registries) Grant(repository string, sessions []string) (name string) {
	name = grantName(repository)
	for _, id := range sessions {
		c, ok := r.sessions.Find(id)
		if ok && r.grants.add(name, id) {
			c.OnDone(func() { r.grants.remove(name, id) })
		}
	}
	return name
}

func grantName(repository string) string {
	sum := sha256.Sum256([]byte("grant\x00" + repository))
	return hex.EncodeToString(sum[:16])
}

// add tells whether it was new.
func (g *grants) add(name, id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions == nil {
		g.sessions = map[string][]string{}
	}
	if slices.Contains(g.sessions[name], id) {
		return false
	}
	g.sessions[name] = append(slices.Clone(g.sessions[name]), id)
	return true
}

func (g *grants) remove(name, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(g.sessions[name]), func(s string) bool { return s == id })
	if len(left) == 0 {
		delete(g.sessions, name)
		return
	}
	g.sessions[name] = left
}

func (g *grants) of(name string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sessions[name]
}

// Challenge is a host's refusal of a request that was made elsewhere.
type Challenge struct {
	Repository string // HOST/PATH
	URL        string
	Scopes     []string // that the request takes
	Challenges []string // values of WWW-Authenticate
	Refused    string   // value of Authorization that was sent
}

// AnswerGrant gives the value of an Authorization header with which the request
// may be repeated. It fails with errdefs.ErrNotFound where no session of the
// grant is left.
func (r *Registries) AnswerGrant(ctx context.Context, grant string, c Challenge) (string, error) {
	ids := r.grants.of(grant)
	if grant != grantName(c.Repository) {
		// A label that somebody took from elsewhere.
		return "", fmt.Errorf("the grant isn't for %s: %w", c.Repository, errdefs.ErrNotFound)
	}
	if len(ids) == 0 {
		return "", fmt.Errorf("the sessions that the layer was mounted for have ended: %w", errdefs.ErrNotFound)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return "", fmt.Errorf("challenge: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	hosts, err := r.load(req.URL.Host)
	if err != nil {
		return "", err
	}
	auth := newAuthorizer(r, func() []string { return ids }).on(hosts[len(hosts)-1].Client)
	refused := &http.Response{Request: req.Clone(ctx), StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": c.Challenges}}
	if c.Refused != "" {
		refused.Request.Header.Set("Authorization", c.Refused)
	}
	if err := auth.AddResponses(ctx, []*http.Response{refused}); err != nil {
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	for _, s := range c.Scopes {
		ctx = docker.WithScope(ctx, s)
	}
	if err := auth.Authorize(ctx, req); err != nil {
		return "", err
	}
	header := req.Header.Get("Authorization")
	if header == "" || header == c.Refused {
		return "", fmt.Errorf("no session has credentials for %s: %w", req.URL.Host, errdefs.ErrNotFound)
	}
	return header, nil
}
