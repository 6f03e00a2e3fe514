package dial

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc/credentials"
)

// TLS names the files of a mutual TLS connection. The zero value is plain text.
type TLS struct {
	// ServerName is the name to verify; the address's host when empty.
	ServerName string
	// CA is a bundle of roots. When given, no other root is trusted.
	CA string
	// Cert and Key are the client's own; both or none.
	Cert, Key string
	// Dir holds the three files under their usual names. It excludes CA, Cert and Key.
	Dir string
}

// Resolve returns t with the files of Dir filled in.
func (t TLS) Resolve() (TLS, error) {
	if t.Dir == "" {
		return t, nil
	}
	if t.CA != "" || t.Cert != "" || t.Key != "" {
		return TLS{}, errors.New("cannot specify tlsdir and tlscacert/tlscert/tlskey at the same time")
	}
	var err error
	for _, wanted := range []struct {
		file  *string
		names [2]string
	}{
		{&t.CA, [2]string{"ca.pem", "ca.crt"}},
		{&t.Cert, [2]string{"cert.pem", "tls.crt"}},
		{&t.Key, [2]string{"key.pem", "tls.key"}},
	} {
		if *wanted.file, err = oneOf(t.Dir, wanted.names); err != nil {
			return TLS{}, err
		}
	}
	t.Dir = ""
	return t, nil
}

func oneOf(dir string, names [2]string) (string, error) {
	for _, name := range names {
		path := filepath.Join(dir, name)
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("directory %s did not contain one of the needed files: %s or %s", dir, names[0], names[1])
}

func (t TLS) wanted() bool { return t.CA != "" || t.Cert != "" || t.Key != "" }

func (t TLS) credentials(host string) (credentials.TransportCredentials, error) {
	config := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if config.ServerName == "" {
		config.ServerName = host
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("could not read ca certificate: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", t.CA)
		}
	}
	if t.Cert != "" || t.Key != "" {
		if t.Cert == "" || t.Key == "" {
			return nil, errors.New("a client certificate needs both its certificate and its key (tlscert and tlskey)")
		}
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("could not read certificate/key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}
