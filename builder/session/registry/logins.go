package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/session"
	"golang.org/x/sync/singleflight"
)

// principal is who a host speaks with. Two sessions with the same key have
// proved to hold the same credentials.
type principal struct {
	key    string
	creds  session.Credentials // empty where the client keeps them
	client *session.Client     // that fetches tokens; nil: we do
}

var anonymous = principal{key: "anonymous"}

// asker is a host that wants to know who it speaks with.
type asker struct {
	host   string
	scheme auth.AuthenticationScheme
}

// logins remembers how hosts ask, who asks through which session, and tokens.
type logins struct {
	mu         sync.Mutex
	challenges map[string]auth.Challenge // by host
	principals map[*session.Client]map[asker]principal
	tokens     map[string]session.Token // by tokenRequest.key
	flight     singleflight.Group
}

func newLogins() *logins {
	return &logins{
		challenges: map[string]auth.Challenge{},
		principals: map[*session.Client]map[asker]principal{},
		tokens:     map[string]session.Token{},
	}
}

// maxChallenges bounds what hosts can have us remember.
const maxChallenges = 1000

func (l *logins) challenge(host string) (auth.Challenge, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.challenges[host]
	return c, ok
}

func (l *logins) setChallenge(host string, c auth.Challenge) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.challenges) >= maxChallenges {
		clear(l.challenges)
	}
	l.challenges[host] = c
}

// identify finds out who the session is to the host. It is asked once.
func (l *logins) identify(ctx context.Context, c *session.Client, host string, scheme auth.AuthenticationScheme) (principal, error) {
	by := asker{host, scheme}
	l.mu.Lock()
	who, ok := l.principals[c][by]
	l.mu.Unlock()
	if ok {
		return who, nil
	}
	who, err := askSession(ctx, c, by)
	if err != nil {
		return principal{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.principals[c] == nil {
		l.principals[c] = map[asker]principal{}
		c.OnDone(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.principals, c)
		})
	}
	l.principals[c][by] = who
	return who, nil
}

// askSession gets the password only where nothing else will do.
func askSession(ctx context.Context, c *session.Client, by asker) (principal, error) {
	if by.scheme == auth.BearerAuth {
		who, err := askAuthority(ctx, c, by.host)
		if !errdefs.IsNotImplemented(err) {
			return who, err
		}
	}
	creds, err := c.Credentials(ctx, by.host)
	if err != nil || creds == (session.Credentials{}) {
		return anonymous, err
	}
	sum := sha256.Sum256([]byte(creds.Username + "\x00" + creds.Secret))
	return principal{key: "credentials " + hex.EncodeToString(sum[:]), creds: creds}, nil
}

func askAuthority(ctx context.Context, c *session.Client, host string) (principal, error) {
	key, err := c.TokenAuthority(ctx, host)
	if err != nil {
		return principal{}, err
	}
	who := principal{key: "session " + c.ID(), client: c}
	if ok, err := c.ProveAuthority(ctx, host, key); err == nil && ok {
		who.key = "authority " + hex.EncodeToString(key[:])
	}
	return who, nil
}

// tokenRequest asks for a token for a principal.
type tokenRequest struct {
	session.TokenRequest
	who    principal
	client *http.Client
}

func (r tokenRequest) key() string {
	return strings.Join(append([]string{r.who.key, r.Host, r.Realm, r.Service}, r.Scopes...), "\x00")
}

// tokenTimeout bounds the fetching of a token, which goes on for others when
// the first who asked for it has left.
const tokenTimeout = 60 * time.Second

// token returns a token that is still good for a while.
func (l *logins) token(ctx context.Context, r tokenRequest) (string, error) {
	key := r.key()
	l.mu.Lock()
	t, ok := l.tokens[key]
	l.mu.Unlock()
	if ok && time.Now().Before(t.Expires) {
		return t.Value, nil
	}
	done := l.flight.DoChan(key, func() (any, error) {
		fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
		defer cancel()
		t, err := fetch(fctx, r)
		if err != nil {
			return nil, fmt.Errorf("token for %s: %w", r.Host, err)
		}
		l.keep(key, t)
		return t.Value, nil
	})
	select {
	case res := <-done:
		value, _ := res.Val.(string)
		return value, res.Err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func (l *logins) keep(key string, t session.Token) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for k, old := range l.tokens {
		if now.After(old.Expires) {
			delete(l.tokens, k)
		}
	}
	t.Expires = now.Add(t.Expires.Sub(now) * 9 / 10)
	l.tokens[key] = t
}

// forget drops a token that a host refused.
func (l *logins) forget(value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, t := range l.tokens {
		if t.Value == value {
			delete(l.tokens, k)
		}
	}
}

func fetch(ctx context.Context, r tokenRequest) (session.Token, error) {
	if u, err := url.Parse(r.Realm); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return session.Token{}, fmt.Errorf("the host sends us to %q: %w", r.Realm, errdefs.ErrInvalidArgument)
	}
	if r.who.client != nil {
		return r.who.client.FetchToken(ctx, r.TokenRequest)
	}
	client := *r.client
	client.Transport = limitBody{client.Transport}
	opts := auth.TokenOptions{
		Realm: r.Realm, Service: r.Service, Scopes: r.Scopes,
		Username: r.who.creds.Username, Secret: r.who.creds.Secret,
	}
	if opts.Secret != "" {
		t, err := auth.FetchTokenWithOAuth(ctx, &client, nil, "kiln", opts)
		if err == nil {
			return newToken(t.AccessToken, t.ExpiresInSeconds, t.IssuedAt), nil
		}
		if !knowsNoPost(err) {
			return session.Token{}, err
		}
	}
	t, err := auth.FetchToken(ctx, &client, nil, opts)
	if err != nil {
		return session.Token{}, err
	}
	return newToken(t.Token, t.ExpiresInSeconds, t.IssuedAt), nil
}

// knowsNoPost tells the answers of token servers that only know GET.
func knowsNoPost(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	if !errors.As(err, &status) {
		return false
	}
	switch status.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed:
		return true
	}
	return false
}

// newToken bounds what a token server says about a token's life.
func newToken(value string, seconds int, issued time.Time) session.Token {
	now := time.Now()
	if seconds <= 0 || seconds > 1<<30 {
		seconds = 60
	}
	if issued.IsZero() || issued.After(now) {
		issued = now
	}
	return session.Token{Value: value, Expires: issued.Add(time.Duration(seconds) * time.Second)}
}
