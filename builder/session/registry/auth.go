package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/session"
)

// authorizer answers the challenges of hosts on behalf of sessions, one after
// the other where the first one's credentials don't do.
type authorizer struct {
	r        *Registries
	sessions func() []string

	mu    sync.Mutex
	hosts map[string]*attempt // by host of the request
}

// attempt is how far an authorizer is with a host.
type attempt struct {
	refused int      // sessions whose credentials the host refused
	scopes  []string // that the host asked for last
}

func newAuthorizer(r *Registries, sessions func() []string) *authorizer {
	if sessions == nil {
		sessions = func() []string { return nil }
	}
	return &authorizer{r: r, sessions: sessions, hosts: map[string]*attempt{}}
}

// on gives the authorizer for requests made with a client, with which tokens
// are fetched too.
func (a *authorizer) on(client *http.Client) docker.Authorizer {
	return &hostAuthorizer{a, client}
}

type hostAuthorizer struct {
	*authorizer
	client *http.Client
}

// Authorize adds credentials where the host is known to ask for them.
func (a *hostAuthorizer) Authorize(ctx context.Context, req *http.Request) error {
	c, ok := a.r.logins.challenge(req.URL.Host)
	if !ok {
		return nil
	}
	who, err := a.principal(ctx, req.URL.Host, c.Scheme)
	if err != nil {
		return err
	}
	if c.Scheme == auth.BasicAuth {
		if who.creds.Username != "" {
			pair := who.creds.Username + ":" + who.creds.Secret
			req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
		}
		return nil
	}
	token, err := a.r.logins.token(ctx, tokenRequest{who: who, client: a.client, TokenRequest: session.TokenRequest{
		Host: req.URL.Host, Realm: c.Parameters["realm"], Service: c.Parameters["service"],
		Scopes: docker.GetTokenScopes(ctx, a.scopes(req.URL.Host)),
	}})
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return nil
}

func (a *authorizer) scopes(host string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at(host).scopes
}

// AddResponses takes a 401 and says whether to try again.
func (a *hostAuthorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	last := responses[len(responses)-1]
	host := last.Request.URL.Host
	c, ok := pickChallenge(auth.ParseAuthHeader(last.Header))
	if !ok {
		return fmt.Errorf("registry host %s wants authorization of an unknown kind: %w", host, errdefs.ErrNotImplemented)
	}
	a.r.logins.setChallenge(host, c)
	a.mu.Lock()
	a.at(host).scopes = strings.Fields(c.Parameters["scope"])
	a.mu.Unlock()
	refused := refusals(responses)
	switch {
	case len(refused) == 0:
		return a.canAnswer(ctx, c, host)
	case len(refused) == 1 && strings.HasPrefix(refused[0], "Bearer "):
		// it may only be too old, or for something else
		a.r.logins.forget(strings.TrimPrefix(refused[0], "Bearer "))
		return nil
	}
	return a.nextSession(host, c)
}

// refusals gives what was refused of one request, without repetitions.
func refusals(responses []*http.Response) (refused []string) {
	host := responses[len(responses)-1].Request.URL.Host
	for _, r := range responses {
		sent := r.Request.Header.Get("Authorization")
		if sent != "" && r.Request.URL.Host == host && !slices.Contains(refused, sent) {
			refused = append(refused, sent)
		}
	}
	return refused
}

// pickChallenge prefers tokens to passwords.
func pickChallenge(cs []auth.Challenge) (auth.Challenge, bool) {
	for _, scheme := range []auth.AuthenticationScheme{auth.BearerAuth, auth.BasicAuth} {
		for _, c := range cs {
			if c.Scheme == scheme && (scheme == auth.BasicAuth || c.Parameters["realm"] != "") {
				return c, true
			}
		}
	}
	return auth.Challenge{}, false
}

// canAnswer fails where a password is asked for and there is none.
func (a *hostAuthorizer) canAnswer(ctx context.Context, c auth.Challenge, host string) error {
	if c.Scheme != auth.BasicAuth {
		return nil
	}
	for {
		who, err := a.principal(ctx, host, c.Scheme)
		if err != nil {
			return err
		}
		if who.creds.Username != "" {
			return nil
		}
		if err := a.nextSession(host, c); err != nil {
			return fmt.Errorf("no credentials for %s: %w", host, err)
		}
	}
}

// nextSession gives up on the credentials that were refused.
func (a *authorizer) nextSession(host string, c auth.Challenge) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.at(host)
	at.refused++
	if at.refused >= len(a.sessions()) {
		at.refused = 0
		return fmt.Errorf("%w by %s%s", docker.ErrInvalidAuthorization, host, detail(c))
	}
	return nil
}

func (a *authorizer) at(host string) *attempt {
	at := a.hosts[host]
	if at == nil {
		at = &attempt{}
		a.hosts[host] = at
	}
	return at
}

func detail(c auth.Challenge) string {
	if e := c.Parameters["error"]; e != "" {
		return ": " + e
	}
	return ""
}

// principal is who the next request to the host is made for.
func (a *authorizer) principal(ctx context.Context, host string, scheme auth.AuthenticationScheme) (principal, error) {
	a.mu.Lock()
	skip := a.at(host).refused
	a.mu.Unlock()
	ids := a.sessions()
	if len(ids) == 0 {
		return anonymous, nil
	}
	ids = ids[min(skip, len(ids)-1):]
	var who principal
	err := a.r.sessions.Any(ctx, ids, func(c *session.Client) (err error) {
		who, err = a.r.logins.identify(ctx, c, host, scheme)
		return err
	})
	if err != nil && ctx.Err() == nil && isSessionLoss(err) {
		return anonymous, nil // a build that outlives its clients may see what everybody may
	}
	return who, err
}

func isSessionLoss(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) && !errors.Is(err, context.DeadlineExceeded)
}
