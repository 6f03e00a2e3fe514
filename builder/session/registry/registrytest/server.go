// Package registrytest runs registries for tests: the reference registry as a
// process of its own, with the kinds of authorization that registries have,
// and a proxy in front of it that fails as a test wants.
package registrytest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Options say how a registry is to be.
type Options struct {
	// Users have to give a password, if there are any.
	Users map[string]string
	// Tokens is who has to give a token.
	Tokens *TokenServer
	// TLS serves HTTPS with a certificate that Server.CA has signed.
	TLS bool
	// Mirrors is the URL of a registry that this one passes on what it
	// doesn't have from.
	Mirrors string
}

// Server is a registry that runs until the test ends.
type Server struct {
	Host string // with the port
	URL  string
	CA   string // file with the certificate to trust; "" without TLS

	client *http.Client
	t      testing.TB
	stop   func()
}

// Start runs a registry.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	for range 5 { // the port may be taken meanwhile
		if s := start(t, o); s != nil {
			return s
		}
	}
	t.Fatal("the registry doesn't start")
	return nil
}

func start(t testing.TB, o Options) *Server {
	dir := t.TempDir()
	s := &Server{t: t, Host: freeAddr(t), client: &http.Client{Timeout: 20 * time.Second}}
	s.URL = "http://" + s.Host
	cfg := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp:\n  addr: %s\n", filepath.Join(dir, "data"), s.Host)
	if o.TLS {
		s.URL = "https://" + s.Host
		cert, key := s.makeCert(dir)
		cfg += fmt.Sprintf("  tls: {certificate: %s, key: %s}\n", cert, key)
	}
	if len(o.Users) > 0 {
		cfg += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s}}\n", htpasswd(t, dir, o.Users))
	}
	if o.Tokens != nil {
		cfg += fmt.Sprintf("auth: {token: {realm: %q, service: test, issuer: test, rootcertbundle: %s}}\n", o.Tokens.URL, o.Tokens.certFile(dir))
	}
	if o.Mirrors != "" {
		cfg += fmt.Sprintf("proxy: {remoteurl: %q}\n", o.Mirrors)
	}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	if !s.run(file) {
		return nil
	}
	return s
}

// Stop ends the registry before the test ends.
func (s *Server) Stop() { s.stop() }

func (s *Server) run(config string) bool {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary(s.t), "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		cancel()
		s.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.stop = func() {
		cancel()
		<-exited
	}
	s.t.Cleanup(s.stop)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if resp, err := s.client.Get(s.URL + "/v2/"); err == nil {
			resp.Body.Close()
			return true
		}
		select {
		case <-exited:
			s.t.Logf("registry: %s", out.String())
			return false
		default:
		}
	}
	s.stop()
	return false
}

// binary finds the registry: on the path, or where the repository builds it.
func binary(t testing.TB) string {
	if p, err := exec.LookPath("registry"); err == nil {
		return p
	}
	_, here, _, _ := runtime.Caller(0)
	p := filepath.Join(filepath.Dir(here), "../../../../bin/tools/registry")
	if _, err := os.Stat(p); err != nil {
		t.Fatal("the registry's binary is missing; `make tools` builds it")
	}
	return p
}

func freeAddr(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func htpasswd(t testing.TB, dir string, users map[string]string) string {
	var b bytes.Buffer
	for user, password := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s:%s\n", user, hash)
	}
	file := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// makeCert also has the server's own client trust it.
func (s *Server) makeCert(dir string) (cert, key string) {
	cert, key = KeyPair(s.t, dir)
	pem, err := os.ReadFile(cert)
	if err != nil {
		s.t.Fatal(err)
	}
	s.CA = cert
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	s.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	return cert, key
}

// KeyPair writes a certificate for this machine, which signs itself and is
// good for servers and clients, into the directory, and its key.
func KeyPair(t testing.TB, dir string) (cert, key string) {
	certPEM, keyPEM, _ := selfSigned(t)
	cert, key = filepath.Join(dir, "pair.cert"), filepath.Join(dir, "pair.key")
	for file, data := range map[string][]byte{cert: certPEM, key: keyPEM} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
