package session

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"golang.org/x/crypto/nacl/sign"
)

// Credentials are a client's for one registry host. A Secret without a Username
// is an identity token; both empty means anonymous.
type Credentials struct{ Username, Secret string }

// TokenRequest is what a registry's challenge asks a token for.
type TokenRequest struct {
	Host    string
	Realm   string
	Service string
	Scopes  []string
}

// Token is a bearer token of a registry.
type Token struct {
	Value   string
	Expires time.Time
}

// defaultTokenLife is that of a token whose issuer doesn't say.
const defaultTokenLife = 60 * time.Second

// salt makes the keys of token authorities useless after a restart.
var salt = func() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}()

func (c *Client) requireAuth(method string) error {
	return c.require(bksession.MethodURL(auth.Auth_ServiceDesc.ServiceName, method), "registry credentials")
}

// Credentials returns the client's credentials for a registry host; anonymous
// ones from a client that has no credentials to give.
func (c *Client) Credentials(ctx context.Context, host string) (Credentials, error) {
	if c.requireAuth("credentials") != nil {
		return Credentials{}, nil
	}
	ctx, cancel := call(ctx)
	defer cancel()
	resp, err := auth.NewAuthClient(c.cc).Credentials(ctx, &auth.CredentialsRequest{Host: host})
	if err := c.fail(err); err != nil {
		if errdefs.IsNotImplemented(err) {
			return Credentials{}, nil
		}
		return Credentials{}, fmt.Errorf("credentials for %s: %w", host, err)
	}
	return Credentials{Username: resp.Username, Secret: resp.Secret}, nil
}

// TokenAuthority returns the public key that stands for the client's
// credentials for a host: the client that can sign with it has the same ones.
// It fails with errdefs.ErrNotImplemented where the client gives credentials
// but no tokens.
func (c *Client) TokenAuthority(ctx context.Context, host string) (key [32]byte, err error) {
	if err := c.requireAuth("gettokenauthority"); err != nil {
		return key, err
	}
	ctx, cancel := call(ctx)
	defer cancel()
	resp, err := auth.NewAuthClient(c.cc).GetTokenAuthority(ctx, &auth.GetTokenAuthorityRequest{Host: host, Salt: salt})
	if err != nil {
		err = c.fail(err)
		if errdefs.IsUnavailable(err) && c.ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrNotImplemented)
		}
		return key, fmt.Errorf("token authority for %s: %w", host, err)
	}
	if len(resp.PublicKey) != len(key) {
		return key, fmt.Errorf("token authority for %s: a key of %d bytes: %w", host, len(resp.PublicKey), errdefs.ErrInvalidArgument)
	}
	copy(key[:], resp.PublicKey)
	return key, nil
}

// ProveAuthority says whether the client has the private half of key.
func (c *Client) ProveAuthority(ctx context.Context, host string, key [32]byte) (bool, error) {
	if err := c.requireAuth("verifytokenauthority"); err != nil {
		return false, err
	}
	payload := make([]byte, 32)
	rand.Read(payload)
	ctx, cancel := call(ctx)
	defer cancel()
	resp, err := auth.NewAuthClient(c.cc).VerifyTokenAuthority(ctx,
		&auth.VerifyTokenAuthorityRequest{Host: host, Salt: salt, Payload: payload})
	if err != nil {
		return false, fmt.Errorf("token authority for %s: %w", host, c.fail(err))
	}
	signed, ok := sign.Open(nil, resp.Signed, &key)
	return ok && subtle.ConstantTimeCompare(signed, payload) == 1, nil
}

// FetchToken has the client fetch a token, so that its credentials stay there.
func (c *Client) FetchToken(ctx context.Context, req TokenRequest) (Token, error) {
	if err := c.requireAuth("fetchtoken"); err != nil {
		return Token{}, err
	}
	ctx, cancel := call(ctx)
	defer cancel()
	now := time.Now()
	resp, err := auth.NewAuthClient(c.cc).FetchToken(ctx, &auth.FetchTokenRequest{
		ClientID: "buildkit-client", Host: req.Host, Realm: req.Realm, Service: req.Service, Scopes: req.Scopes,
	})
	if err != nil {
		return Token{}, fmt.Errorf("token for %s: %w", req.Host, c.fail(err))
	}
	life, issued := time.Duration(resp.ExpiresIn)*time.Second, now
	if resp.ExpiresIn <= 0 || resp.ExpiresIn > 1<<31 {
		life = defaultTokenLife
	}
	if t := time.Unix(resp.IssuedAt, 0); resp.IssuedAt > 0 && t.Before(now) {
		issued = t
	}
	return Token{Value: resp.Token, Expires: issued.Add(life)}, nil
}
