package registry_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/session/registry/registrytest"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/auth/authprovider"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
)

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

var quick = registry.Retry{Attempts: 4, First: time.Millisecond, Max: 10 * time.Millisecond}

// keychain offers credentials as the clients of today do: by tokens.
func keychain(t *testing.T, user, password string) bksession.Attachable {
	configDir.Lock()
	defer configDir.Unlock()
	config.SetDir(t.TempDir()) // the seed of the key is there; passwords don't count
	return authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: func(context.Context, string, []string, authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
			return types.AuthConfig{Username: user, Password: password}, nil
		},
	})
}

var configDir sync.Mutex

// passwords offers credentials as older clients do.
type passwords struct {
	auth.UnimplementedAuthServer
	user, password string
	asked          *atomic.Int64
}

func (p passwords) Credentials(context.Context, *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	if p.asked != nil {
		p.asked.Add(1)
	}
	return &auth.CredentialsResponse{Username: p.user, Secret: p.password}, nil
}

func (p passwords) Register(s *grpc.Server) { auth.RegisterAuthServer(s, p) }

func open(t *testing.T, m *session.Manager, offer bksession.Attachable) func() []string {
	c, _ := sessiontest.Open(t, m, "", offer)
	return func() []string { return []string{c.ID()} }
}

// pull resolves a reference and reads the manifest.
func pull(ctx context.Context, r *registry.Registries, sessions func() []string, ref string) (digest.Digest, error) {
	res := r.Resolver(sessions)
	name, desc, err := res.Resolve(ctx, ref)
	if err != nil {
		return "", err
	}
	f, err := res.Fetcher(ctx, name)
	if err != nil {
		return "", err
	}
	rc, err := f.Fetch(ctx, desc)
	if err != nil {
		return "", err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err == nil && digest.FromBytes(b) != desc.Digest {
		err = errors.New("wrong content")
	}
	return desc.Digest, err
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	users := map[string]string{"ann": "secret"}
	srv := registrytest.Start(t, registrytest.Options{Users: users})
	want := srv.Push(registrytest.Login{User: "ann", Password: "secret"}, "a/b", "1", registrytest.NewImage(t, amd64))
	m := session.NewManager()
	r := registry.New(registry.Config{Retry: quick}, m)
	defer r.Close()
	right := open(t, m, keychain(t, "ann", "secret"))
	wrong := open(t, m, keychain(t, "ann", "guess"))
	nobody := open(t, m, keychain(t, "", ""))
	old := open(t, m, passwords{user: "ann", password: "secret"})
	for name, tc := range map[string]struct {
		sessions func() []string
		ok       bool
	}{
		"right": {right, true}, "old": {old, true},
		"wrong": {wrong, false}, "nobody": {nobody, false}, "no session": {nil, false},
		"wrong, then right": {func() []string { return append(wrong(), right()...) }, true},
	} {
		got, err := pull(t.Context(), r, tc.sessions, srv.Host+"/a/b:1")
		if tc.ok && (err != nil || got != want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if !tc.ok && (err == nil || !strings.Contains(err.Error(), "pull access denied")) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	tokens := registrytest.StartTokens(t, map[string]string{"ann": "secret"})
	srv := registrytest.Start(t, registrytest.Options{Tokens: tokens})
	ann := registrytest.Login{User: "ann", Password: "secret"}
	srv.Push(ann, "private/a", "1", registrytest.NewImage(t, amd64))
	srv.Push(ann, "public/a", "1", registrytest.NewImage(t, amd64))
	m := session.NewManager()
	r := registry.New(registry.Config{Retry: quick}, m)
	defer r.Close()
	for _, tc := range []struct {
		name            string
		sessions        func() []string
		private, public bool
	}{
		{"owner", open(t, m, keychain(t, "ann", "secret")), true, true},
		{"nobody", open(t, m, keychain(t, "", "")), false, true},
		{"old client", open(t, m, passwords{user: "ann", password: "secret"}), true, true},
		{"no session", nil, false, true},
		{"wrong password", open(t, m, keychain(t, "ann", "guess")), false, false},
		{"wrong password of an old client", open(t, m, passwords{user: "ann", password: "guess"}), false, false},
	} {
		for repo, want := range map[string]bool{"private/a": tc.private, "public/a": tc.public} {
			if _, err := pull(t.Context(), r, tc.sessions, srv.Host+"/"+repo+":1"); (err == nil) != want {
				t.Errorf("%s: %s: %v", tc.name, repo, err)
			}
		}
	}
}

func TestTokensAreSharedByProofOnly(t *testing.T) {
	t.Parallel()
	tokens := registrytest.StartTokens(t, map[string]string{"ann": "secret", "bob": "other"})
	srv := registrytest.Start(t, registrytest.Options{Tokens: tokens})
	srv.Push(registrytest.Login{User: "ann", Password: "secret"}, "private/a", "1", registrytest.NewImage(t, amd64))
	m := session.NewManager()
	r := registry.New(registry.Config{Retry: quick}, m)
	defer r.Close()
	given := func(sessions func() []string) int64 {
		before := tokens.Given.Load()
		if _, err := pull(t.Context(), r, sessions, srv.Host+"/private/a:1"); err != nil {
			t.Fatal(err)
		}
		return tokens.Given.Load() - before
	}
	ann := keychain(t, "ann", "secret")
	if n := given(open(t, m, ann)); n < 1 {
		t.Errorf("first session: %d tokens", n)
	}
	if n := given(open(t, m, ann)); n != 0 {
		t.Errorf("second session of the same client: %d tokens", n)
	}
	thief, _ := sessiontest.Open(t, m, "", impostor{keychainKey(t, m, ann, srv.Host)})
	if _, err := pull(t.Context(), r, func() []string { return []string{thief.ID()} }, srv.Host+"/private/a:1"); err == nil {
		t.Error("who claims another one's key gets its token")
	}
	if n := given(open(t, m, passwords{user: "bob", password: "other"})); n < 1 {
		t.Errorf("another user: %d tokens", n)
	}
	if n := given(open(t, m, passwords{user: "bob", password: "other"})); n != 0 {
		t.Errorf("the same user: %d tokens", n)
	}
}

// keychainKey is the public key of a client's authority.
func keychainKey(t *testing.T, m *session.Manager, offer bksession.Attachable, host string) []byte {
	c, _ := sessiontest.Open(t, m, "", offer)
	key, err := c.TokenAuthority(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	return key[:]
}

// impostor claims a key that isn't its own.
type impostor struct {
	key []byte
}

func (i impostor) Register(s *grpc.Server) { auth.RegisterAuthServer(s, &impostorServer{key: i.key}) }

type impostorServer struct {
	auth.UnimplementedAuthServer
	key []byte
}

func (i *impostorServer) GetTokenAuthority(context.Context, *auth.GetTokenAuthorityRequest) (*auth.GetTokenAuthorityResponse, error) {
	return &auth.GetTokenAuthorityResponse{PublicKey: i.key}, nil
}

func (i *impostorServer) VerifyTokenAuthority(_ context.Context, r *auth.VerifyTokenAuthorityRequest) (*auth.VerifyTokenAuthorityResponse, error) {
	return &auth.VerifyTokenAuthorityResponse{Signed: append(make([]byte, 64), r.Payload...)}, nil
}

func (i *impostorServer) FetchToken(context.Context, *auth.FetchTokenRequest) (*auth.FetchTokenResponse, error) {
	return &auth.FetchTokenResponse{Token: "none"}, nil
}

func TestTLS(t *testing.T) {
	t.Parallel()
	srv := registrytest.Start(t, registrytest.Options{TLS: true})
	srv.Push(registrytest.Login{}, "a", "1", registrytest.NewImage(t, amd64))
	plain := registrytest.Start(t, registrytest.Options{})
	plain.Push(registrytest.Login{}, "a", "1", registrytest.NewImage(t, amd64))
	no, yes := false, true
	certs := t.TempDir()
	dir := filepath.Join(certs, srv.Host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(srv.CA)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o644); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("server = %q\n[host.%q]\n  ca = %q\n", srv.URL, srv.URL, filepath.Join(dir, "ca.crt"))
	hostsDir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(hostsDir, srv.Host), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hostsDir, srv.Host, "hosts.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	one := func(h registry.Host) registry.Config {
		return registry.Config{Hosts: map[string]registry.Host{srv.Host: h}}
	}
	for name, tc := range map[string]struct {
		cfg  registry.Config
		host string
		want string
	}{
		"CA":                  {one(registry.Host{HTTP: &no, CA: []string{srv.CA}}), srv.Host, ""},
		"insecure":            {one(registry.Host{HTTP: &no, Insecure: true}), srv.Host, ""},
		"insecure or plain":   {one(registry.Host{HTTP: &yes, Insecure: true}), srv.Host, ""},
		"directory":           {one(registry.Host{HTTP: &no, TLSDirs: []string{"/nonexistent", dir}}), srv.Host, ""},
		"hosts.toml":          {registry.Config{HostDirs: []string{t.TempDir(), hostsDir}}, srv.Host, ""},
		"certificates":        {registry.Config{HostDirs: []string{certs}}, srv.Host, ""},
		"unknown certificate": {one(registry.Host{HTTP: &no}), srv.Host, "certificate"},
		"missing CA":          {one(registry.Host{CA: []string{"/nonexistent"}}), srv.Host, "configuration of registry"},
		"plain, by default":   {registry.Config{}, plain.Host, ""},
		"plain as fallback": {registry.Config{Hosts: map[string]registry.Host{
			plain.Host: {HTTP: &yes, Insecure: true}}}, plain.Host, ""},
	} {
		tc.cfg.Retry = quick
		r := registry.New(tc.cfg, session.NewManager())
		got, err := pull(t.Context(), r, nil, tc.host+"/a:1")
		r.Close()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := registrytest.KeyPair(t, dir)
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(ca, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	const manifest = `{"schemaVersion":2}`
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromString(manifest).String())
		fmt.Fprint(w, manifest)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	srv.StartTLS()
	defer srv.Close()
	name := strings.TrimPrefix(srv.URL, "https://")
	no := false
	for what, h := range map[string]registry.Host{
		"key pair":  {CA: []string{ca}, KeyPairs: []registry.KeyPair{{Cert: cert, Key: key}}},
		"directory": {TLSDirs: []string{dir}},
		"":          {CA: []string{ca}},
	} {
		h.HTTP = &no
		r := registry.New(registry.Config{Retry: quick, Hosts: map[string]registry.Host{name: h}}, session.NewManager())
		if _, err := pull(t.Context(), r, nil, name+"/a:1"); (err == nil) != (what != "") {
			t.Errorf("%q: %v", what, err)
		}
		r.Close()
	}
}

func TestMirrors(t *testing.T) {
	t.Parallel()
	origin := registrytest.Start(t, registrytest.Options{})
	want := origin.Push(registrytest.Login{}, "a/b", "1", registrytest.NewImage(t, amd64))
	proxy := registrytest.StartProxy(t, registrytest.Start(t, registrytest.Options{Mirrors: origin.URL}))
	r := registry.New(registry.Config{Retry: quick, Hosts: map[string]registry.Host{
		origin.Host: {Mirrors: []string{"127.0.0.1:1", proxy.Host}},
	}}, session.NewManager())
	defer r.Close()
	if got, err := pull(t.Context(), r, nil, origin.Host+"/a/b:1"); err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
	if len(proxy.Seen("/v2/a/b/manifests/")) == 0 {
		t.Error("the mirror was not asked")
	}
	sub := registrytest.StartProxy(t, origin)
	r2 := registry.New(registry.Config{Retry: quick, Hosts: map[string]registry.Host{"docker.io": {Mirrors: []string{sub.Host + "/a/"}}}}, session.NewManager())
	defer r2.Close()
	if got, err := pull(t.Context(), r2, nil, "docker.io/b:1"); err != nil || got != want {
		t.Errorf("mirror with a path: %v, %v", got, err)
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	srv := registrytest.Start(t, registrytest.Options{})
	want := srv.Push(registrytest.Login{}, "a", "1", registrytest.NewImage(t, amd64))
	for name, answer := range map[string]func(n int64, w http.ResponseWriter) bool{
		"overload": func(n int64, w http.ResponseWriter) bool {
			if n%3 != 0 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader([]int{0, 503, 429}[n%3])
				return true
			}
			return false
		},
		"broken connections": func(n int64, w http.ResponseWriter) bool {
			if n%2 == 1 {
				panic(http.ErrAbortHandler)
			}
			return false
		},
	} {
		p := registrytest.StartProxy(t, srv)
		var n atomic.Int64
		p.Answer = func(w http.ResponseWriter, _ *http.Request) bool { return answer(n.Add(1), w) }
		r := registry.New(registry.Config{Retry: quick}, session.NewManager())
		if got, err := pull(t.Context(), r, nil, p.Host+"/a:1"); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		r.Close()
	}
}

func TestDown(t *testing.T) {
	t.Parallel()
	r := registry.New(registry.Config{Retry: quick}, session.NewManager())
	defer r.Close()
	_, err := pull(t.Context(), r, nil, "127.0.0.1:1/a:1")
	down, ok := errors.AsType[*registry.UnreachableError](err)
	if !ok || !errdefs.IsUnavailable(err) || down.Host != "127.0.0.1:1" || !strings.Contains(down.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	slow := registry.New(registry.Config{Retry: registry.Retry{Attempts: 1000, First: time.Second, Max: time.Second}}, session.NewManager())
	defer slow.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := pull(ctx, slow, nil, "127.0.0.1:1/a:1"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("cancelled after %v: %v", time.Since(begin), err)
	}
}

func TestHostileTokenServer(t *testing.T) {
	t.Parallel()
	srv := registrytest.Start(t, registrytest.Options{})
	endless := registrytest.StartProxy(t, srv)
	endless.Answer = func(w http.ResponseWriter, r *http.Request) bool {
		fmt.Fprint(w, `{"token":"`)
		chunk := strings.Repeat("a", 1<<16)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, chunk); err != nil {
				break
			}
		}
		return true
	}
	for _, realm := range []string{"http://" + endless.Host + "/t", "file:///etc/passwd", "", "::", "http://"} {
		p := registrytest.StartProxy(t, srv)
		p.Answer = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", realm))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		r := registry.New(registry.Config{Retry: quick}, session.NewManager())
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if _, err := pull(ctx, r, nil, p.Host+"/a:1"); err == nil || ctx.Err() != nil {
			t.Errorf("realm %q: %v", realm, err)
		}
		cancel()
		r.Close()
	}
}

func TestAcquire(t *testing.T) {
	t.Parallel()
	r := registry.New(registry.Config{MaxTransfers: 1}, session.NewManager())
	release, err := r.Acquire(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.Acquire(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one too many: %v", err)
	}
	other, err := r.Acquire(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	release()
	if release, err = r.Acquire(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	release()
}
