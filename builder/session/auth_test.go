package session_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	"github.com/moby/buildkit/session/auth"
	"golang.org/x/crypto/nacl/sign"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// keeper is a client that gives tokens and keeps its credentials.
type keeper struct {
	auth.UnimplementedAuthServer
	key   ed25519.PrivateKey
	token *auth.FetchTokenResponse
	off   bool
}

func (k *keeper) Credentials(_ context.Context, r *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	return &auth.CredentialsResponse{Username: "u", Secret: "s@" + r.Host}, nil
}

func (k *keeper) GetTokenAuthority(context.Context, *auth.GetTokenAuthorityRequest) (*auth.GetTokenAuthorityResponse, error) {
	if k.off {
		return nil, status.Error(codes.Unavailable, "client side tokens disabled")
	}
	return &auth.GetTokenAuthorityResponse{PublicKey: k.key[32:]}, nil
}

func (k *keeper) VerifyTokenAuthority(_ context.Context, r *auth.VerifyTokenAuthorityRequest) (*auth.VerifyTokenAuthorityResponse, error) {
	var priv [64]byte
	copy(priv[:], k.key)
	return &auth.VerifyTokenAuthorityResponse{Signed: sign.Sign(nil, r.Payload, &priv)}, nil
}

func (k *keeper) FetchToken(_ context.Context, r *auth.FetchTokenRequest) (*auth.FetchTokenResponse, error) {
	return k.token, nil
}

func newKeeper(t *testing.T) *keeper {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &keeper{key: key}
}

func openKeeper(t *testing.T, k *keeper) *session.Client {
	c, _ := sessiontest.Open(t, session.NewManager(), "", service(func(s *grpc.Server) { auth.RegisterAuthServer(s, k) }))
	return c
}

func TestTokenAuthority(t *testing.T) {
	t.Parallel()
	ka, kb := newKeeper(t), newKeeper(t)
	a, b := openKeeper(t, ka), openKeeper(t, kb)
	ctx := t.Context()
	key, err := a.TokenAuthority(ctx, "h")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := a.ProveAuthority(ctx, "h", key); err != nil || !ok {
		t.Errorf("the owner can't prove it: %v, %v", ok, err)
	}
	if ok, err := b.ProveAuthority(ctx, "h", key); err != nil || ok {
		t.Errorf("a stranger proves it: %v, %v", ok, err)
	}
	ka.off = true
	if _, err := a.TokenAuthority(ctx, "h"); !errdefs.IsNotImplemented(err) {
		t.Errorf("switched off: %v", err)
	}
	kb.key = append(kb.key, 1)
	if _, err := b.TokenAuthority(ctx, "h"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a long key: %v", err)
	}
	if cred, err := a.Credentials(ctx, "h"); err != nil || cred.Secret != "s@h" {
		t.Errorf("credentials %v, %v", cred, err)
	}
}

func TestTokenLife(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	c := openKeeper(t, k)
	now := time.Now()
	for _, tc := range []struct {
		expires, issued int64
		min, max        time.Duration
	}{
		{0, 0, 50 * time.Second, 61 * time.Second},
		{-5, 0, 50 * time.Second, 61 * time.Second},
		{1 << 62, 0, 50 * time.Second, 61 * time.Second},
		{300, now.Unix() - 100, 190 * time.Second, 201 * time.Second},
		{300, now.Unix() + 9999, 290 * time.Second, 310 * time.Second},
	} {
		k.token = &auth.FetchTokenResponse{Token: "t", ExpiresIn: tc.expires, IssuedAt: tc.issued}
		tok, err := c.FetchToken(t.Context(), session.TokenRequest{Host: "h"})
		if life := tok.Expires.Sub(now); err != nil || tok.Value != "t" || life < tc.min || life > tc.max {
			t.Errorf("%+v: lives %v, %v", tc, life, err)
		}
	}
}
