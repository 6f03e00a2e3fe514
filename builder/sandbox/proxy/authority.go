package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// Check decides on a URL that is asked for: it gives the one to get in its place, or
// an error if none may be.
type Check func(ctx context.Context, url string) (string, error)

// Authority is what the proxies of one build have in common: who decides what may be
// asked for, and a certificate authority, whose key is nowhere but here. It is safe
// for concurrent use.
type Authority struct {
	check Check
	cert  *x509.Certificate
	pem   []byte
	key   *ecdsa.PrivateKey // of the authority
	leaf  *ecdsa.PrivateKey // of all hosts

	mu    sync.Mutex
	hosts map[string]*tls.Certificate
}

const (
	// authorityLife is longer than any build takes, on clocks that aren't the same.
	authorityLife = 30 * 24 * time.Hour
	clockSkew     = time.Hour
	// maxHosts bounds how many hosts' certificates are kept.
	maxHosts = 1000
)

// NewAuthority makes the authority of a build. check may be nil: all is allowed.
func NewAuthority(check Check) (*Authority, error) {
	a := &Authority{check: check, hosts: map[string]*tls.Certificate{}}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if a.leaf, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := newTemplate("kiln build proxy")
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("make the proxy's certificate authority: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a, nil
}

func newTemplate(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) //nolint:errcheck // crypto/rand never fails
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-clockSkew), NotAfter: now.Add(authorityLife),
	}
}

// host gives the certificate by which the proxy answers for a host.
func (a *Authority) host(name string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.hosts[name]; c != nil {
		return c, nil
	}
	common := name
	if len(common) > 64 {
		common = "" // no longer ones are valid; the other name counts
	}
	template := newTemplate(common)
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.leaf.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %q: %w", name, err)
	}
	if len(a.hosts) >= maxHosts {
		clear(a.hosts)
	}
	c := &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: a.leaf}
	a.hosts[name] = c
	return c, nil
}
