package plugin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/plugin/config"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestUnixSockets(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "socket")
	l, err := listenUnix(path, "12345", strconv.Itoa(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 12345 {
		t.Errorf("owner %d", owner)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	if _, err := listenUnix(path, "", ""); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("a socket in use: %v", err)
	}
	// A process that was killed leaves its socket.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	again, err := listenUnix(path, "", "")
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestAddressesThatFail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good")
	for _, c := range []struct {
		cfg  config.Config
		want string
	}{
		{config.Config{Addresses: []string{"unix://" + file}}, "not a socket"},
		{config.Config{Addresses: []string{"unix://" + file + "/x"}}, "not a directory"},
		{config.Config{Addresses: []string{"fd://"}}, "no socket was passed"},
		{config.Config{Addresses: []string{"tcp://127.0.0.1:0"}, TLS: config.TLS{Cert: file, Key: file}}, "tls"},
		{config.Config{Addresses: []string{"tcp://host.invalid:1"}}, "host.invalid"},
		{config.Config{Addresses: []string{"unix://" + filepath.Join(dir, "g")}, Group: "no such group"}, "group"},
		{config.Config{Addresses: []string{"unix://" + filepath.Join(dir, "u")}, User: "no such user"}, "user"},
	} {
		c.cfg.Addresses = append([]string{"unix://" + good}, c.cfg.Addresses...)
		if c.cfg.Group+c.cfg.User != "" {
			c.cfg.Addresses = c.cfg.Addresses[1:]
		}
		all, err := listen(t.Context(), c.cfg, config.Systemd{})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.cfg.Addresses[len(c.cfg.Addresses)-1]) {
			t.Errorf("%v: error %v", c.cfg.Addresses, err)
		}
		closeAll(all)
		if _, err := os.Stat(good); !os.IsNotExist(err) {
			t.Errorf("%v: the other listener is still open", c.cfg.Addresses)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Error("a file was taken for a socket")
	}
}

// authority signs certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(t.TempDir(), "ca")}
	a.key, a.cert = a.sign(t, a.file, x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign writes a certificate to file and its key to file.key.
func (a *authority) sign(t *testing.T, file string, template x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: file}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = &template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{file: {Type: "CERTIFICATE", Bytes: der}, file + ".key": {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func TestTCP(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	server, client, stranger := filepath.Join(dir, "server"), filepath.Join(dir, "client"), filepath.Join(dir, "stranger")
	ours.sign(t, server, x509.Certificate{DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	ours.sign(t, client, x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	theirs.sign(t, stranger, x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	withCert := func(name string) credentials.TransportCredentials {
		settings := &tls.Config{RootCAs: roots}
		if name != "" {
			pair, err := tls.LoadX509KeyPair(name, name+".key")
			if err != nil {
				t.Fatal(err)
			}
			settings.Certificates = []tls.Certificate{pair}
		}
		return credentials.NewTLS(settings)
	}
	plain, oneWay, mutual := config.TLS{}, config.TLS{Cert: server, Key: server + ".key"}, config.TLS{Cert: server, Key: server + ".key", CA: ours.file}
	for _, c := range []struct {
		name   string
		server config.TLS
		client credentials.TransportCredentials
		works  bool
	}{
		{"plain", plain, insecure.NewCredentials(), true},
		{"TLS to plain", plain, withCert(""), false},
		{"TLS", oneWay, withCert(""), true},
		{"plain to TLS", oneWay, insecure.NewCredentials(), false},
		{"mutual TLS", mutual, withCert(client), true},
		{"mutual TLS without a certificate", mutual, withCert(""), false},
		{"mutual TLS with another's certificate", mutual, withCert(stranger), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			all, err := listen(t.Context(), config.Config{Addresses: []string{"tcp://127.0.0.1:0"}, TLS: c.server}, config.Systemd{})
			if err != nil {
				t.Fatal(err)
			}
			if err := checkHealth(t, all[0], c.client); (err == nil) != c.works {
				t.Errorf("error %v", err)
			}
		})
	}
}

// checkHealth serves gRPC on the listener and asks it.
func checkHealth(t *testing.T, l net.Listener, creds credentials.TransportCredentials) error {
	t.Helper()
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	go s.Serve(l)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

func TestNotify(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := notify(config.Systemd{NotifySocket: path}, "READY=1"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := l.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("got %q, error %v", buf[:n], err)
	}
	if err := notify(config.Systemd{}, "READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
}
