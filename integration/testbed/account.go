package testbed

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/bcrypt"
)

// Account is somebody whom a private registry lets in.
type Account struct{ User, Password string }

// StartBasicRegistry is StartRegistry for those who send the account's password
// along.
func StartBasicRegistry(dir string, a Account) (*Registry, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(a.Password), bcrypt.MinCost)
	if err != nil {
		return nil, err
	}
	passwords := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(passwords, fmt.Appendf(nil, "%s:%s\n", a.User, hash), 0o600); err != nil {
		return nil, err
	}
	return startRegistry(dir, &a, fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}\n", passwords))
}

// StartTokenRegistry is StartRegistry for those who bring a token, which another
// server gives to the account.
func StartTokenRegistry(dir string, a Account) (*Registry, error) {
	tokens, err := startTokens(a)
	if err != nil {
		return nil, err
	}
	cert := filepath.Join(dir, "token.pem")
	if err := os.WriteFile(cert, tokens.cert, 0o600); err != nil {
		return nil, err
	}
	r, err := startRegistry(dir, &a, fmt.Sprintf("auth: {token: {realm: %q, service: %q, issuer: %q, rootcertbundle: %q}}\n",
		tokens.URL+"/token", tokenService, tokenIssuer, cert))
	if err != nil {
		tokens.Close()
		return nil, err
	}
	r.tokens = tokens
	return r, nil
}
