package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tls reads the certificates that the settings name.
func (s Host) tls() (*tls.Config, error) {
	roots, pairs := slices.Clone(s.CA), slices.Clone(s.KeyPairs)
	for _, dir := range s.TLSDirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return nil, err
		}
		for _, e := range entries {
			file := filepath.Join(dir, e.Name())
			if strings.HasSuffix(file, ".crt") {
				roots = append(roots, file)
			}
			if base, ok := strings.CutSuffix(file, ".cert"); ok {
				pairs = append(pairs, KeyPair{Cert: file, Key: base + ".key"})
			}
		}
	}
	c := &tls.Config{InsecureSkipVerify: s.Insecure, MinVersion: tls.VersionTLS12}
	for _, p := range pairs {
		cert, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w", p.Cert, err)
		}
		c.Certificates = append(c.Certificates, cert)
	}
	if len(roots) == 0 {
		return c, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("the system's certificates: %w", err)
	}
	for _, file := range roots {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", file)
		}
	}
	c.RootCAs = pool
	return c, nil
}
