package registrytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TokenServer gives out tokens to those who know a password, and to everybody
// for repositories that begin with "public/".
type TokenServer struct {
	URL string
	// Given counts the tokens that were given out.
	Given atomic.Int64

	users   map[string]string
	certPEM []byte
	key     *ecdsa.PrivateKey
	t       testing.TB
}

// StartTokens runs a token server until the test ends.
func StartTokens(t testing.TB, users map[string]string) *TokenServer {
	s := &TokenServer{t: t, users: users}
	s.certPEM, _, s.key = selfSigned(t)
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.URL = srv.URL + "/token"
	return s
}

func (s *TokenServer) certFile(dir string) string {
	file := filepath.Join(dir, "tokens.pem")
	if err := os.WriteFile(file, s.certPEM, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// ServeHTTP answers GET with basic authorization and POST with a form.
func (s *TokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	scopes := r.URL.Query()["scope"]
	if r.Method == http.MethodPost {
		user, password = r.PostFormValue("username"), r.PostFormValue("password")
		scopes = strings.Fields(r.PostFormValue("scope"))
	}
	known := user != "" && s.users[user] == password
	if user != "" && !known {
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return
	}
	s.Given.Add(1)
	token := s.sign(grants(scopes, known))
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
}

func grants(scopes []string, known bool) []map[string]any {
	out := []map[string]any{}
	for _, scope := range scopes {
		f := strings.SplitN(scope, ":", 3)
		if len(f) != 3 || !known && !strings.HasPrefix(f[1], "public/") {
			continue
		}
		actions := strings.Split(f[2], ",")
		if !known {
			actions = []string{"pull"}
		}
		out = append(out, map[string]any{"type": f[0], "name": f[1], "actions": actions})
	}
	return out
}

func (s *TokenServer) sign(access []map[string]any) string {
	block, _ := pem.Decode(s.certPEM)
	now := time.Now()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			s.t.Error(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signed := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(block.Bytes)}}) +
		"." + part(map[string]any{
		"iss": "test", "sub": "", "aud": "test", "jti": rand.Text(), "access": access,
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	})
	sum := sha256.Sum256([]byte(signed))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		s.t.Error(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// selfSigned makes a certificate for this machine.
func selfSigned(t testing.TB) (certPEM, keyPEM []byte, key *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), key
}
