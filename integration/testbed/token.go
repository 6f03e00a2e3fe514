package testbed

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
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"time"
)

// What a registry is told of the server of its tokens.
const (
	tokenService = "registry"
	tokenIssuer  = "testbed"
)

// tokens is a server of tokens, as in the distribution project's "Token
// Authentication Specification". Whoever gives no password gets one that opens
// nothing.
type tokens struct {
	*httptest.Server
	account Account
	key     *ecdsa.PrivateKey
	der     []byte // certificate of the key
	cert    []byte // the same, PEM
}

func startTokens(a Account) (*tokens, error) {
	t := &tokens{account: a}
	var err error
	if t.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: tokenIssuer}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	if t.der, err = x509.CreateCertificate(rand.Reader, template, template, t.key.Public(), t.key); err != nil {
		return nil, err
	}
	t.cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: t.der})
	t.Server = httptest.NewServer(t)
	return t, nil
}

// ServeHTTP answers a GET with a password in its header, and the POST of OAuth 2.
func (t *tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, given := r.BasicAuth()
	if r.Method == http.MethodPost {
		user, password, given = r.PostFormValue("username"), r.PostFormValue("password"), true
	}
	if given && (Account{user, password}) != t.account {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var scopes []string
	if given {
		for _, s := range r.Form["scope"] {
			scopes = append(scopes, strings.Fields(s)...)
		}
		for _, s := range r.URL.Query()["scope"] {
			scopes = append(scopes, strings.Fields(s)...)
		}
	}
	token, err := t.sign(user, scopes)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 60}) // whoever asked has gone
}

// repository is what a request to a registry is about.
var repository = regexp.MustCompile("^/v2/(.+)/(?:blobs|manifests|tags)/")

// RoundTrip brings a token along, for clients that fetch none on loopback.
func (t *tokens) RoundTrip(req *http.Request) (*http.Response, error) {
	var scopes []string
	if m := repository.FindStringSubmatch(req.URL.Path); m != nil {
		scopes = []string{"repository:" + m[1] + ":pull,push"}
	}
	token, err := t.sign(t.account.User, scopes)
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+token)
	return http.DefaultTransport.RoundTrip(req)
}

// sign makes a JSON web token for scopes like repository:NAME:pull,push.
func (t *tokens) sign(user string, scopes []string) (string, error) {
	access := []map[string]any{}
	for _, s := range scopes {
		kind, rest, _ := strings.Cut(s, ":")
		if i := strings.LastIndex(rest, ":"); i > 0 {
			access = append(access, map[string]any{"type": kind, "name": rest[:i], "actions": strings.Split(rest[i+1:], ",")})
		}
	}
	now := time.Now()
	signed, err := join(
		map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(t.der)}},
		map[string]any{
			"iss": tokenIssuer, "aud": tokenService, "sub": user, "jti": rand.Text(), "access": access,
			"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Minute).Unix(),
		})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, t.key, sum[:])
	if err != nil {
		return "", err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature[:]), nil
}

// join encodes the parts of a token.
func join(parts ...any) (string, error) {
	var all []string
	for _, p := range parts {
		data, err := json.Marshal(p)
		if err != nil {
			return "", err
		}
		all = append(all, base64.RawURLEncoding.EncodeToString(data))
	}
	return strings.Join(all, "."), nil
}
