package dial_test

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
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/kiln-build/kiln/nerdctlext/daemontest"
	"github.com/kiln-build/kiln/nerdctlext/dial"
)

// version asks the daemon that options name for its version.
func version(ctx context.Context, options dial.Options) (string, error) {
	conn, err := dial.Dial(options)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	response, err := controlapi.NewControlClient(conn).Info(ctx, &controlapi.InfoRequest{})
	return response.GetBuildkitVersion().GetVersion(), err
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	got, err := version(t.Context(), dial.Options{Address: daemontest.Start(t).Address()})
	if err != nil || got != "v1.2.3" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTraceGoesAlong(t *testing.T) {
	t.Parallel()
	seen := make(chan []string, 1)
	daemon := daemontest.Start(t, grpc.ChainUnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		headers, _ := metadata.FromIncomingContext(ctx)
		seen <- headers.Get("traceparent")
		return next(ctx, request)
	}))
	if _, err := version(t.Context(), dial.Options{Address: daemon.Address(), Trace: map[string]string{"traceparent": "00-1-2-01"}}); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; len(got) != 1 || got[0] != "00-1-2-01" {
		t.Errorf("traceparent %q", got)
	}
}

// authority is a certificate authority in a directory.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{dir: t.TempDir(), key: key}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(a.dir, "ca.pem"), "CERTIFICATE", der)
	return a
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue writes a certificate for the host name and its key, and returns both paths.
func (a *authority) issue(t *testing.T, host, certName, keyName string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{host}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(a.dir, certName), filepath.Join(a.dir, keyName)
	writePEM(t, cert, "CERTIFICATE", der)
	writePEM(t, key, "EC PRIVATE KEY", encoded)
	return cert, key
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	serverCert, serverKey := ca.issue(t, "builder.test", "server.pem", "server-key.pem")
	clientCert, clientKey := ca.issue(t, "client.test", "cert.pem", "key.pem")
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	trust := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	daemon := daemontest.Serve(t, listener, "tcp://"+listener.Addr().String(), grpc.Creds(trust))

	full := dial.TLS{ServerName: "builder.test", CA: filepath.Join(ca.dir, "ca.pem"), Cert: clientCert, Key: clientKey}
	fromDir, err := dial.TLS{ServerName: "builder.test", Dir: ca.dir}.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	if fromDir != full {
		t.Errorf("from the directory: %+v, want %+v", fromDir, full)
	}
	if got, err := version(t.Context(), dial.Options{Address: daemon.Address(), TLS: full}); err != nil || got != "v1.2.3" {
		t.Errorf("%q, %v", got, err)
	}
	other := newAuthority(t)
	for name, wrong := range map[string]dial.TLS{
		"another name":      {CA: full.CA, Cert: full.Cert, Key: full.Key},
		"no certificate":    {ServerName: full.ServerName, CA: full.CA},
		"another authority": {ServerName: full.ServerName, CA: filepath.Join(other.dir, "ca.pem"), Cert: full.Cert, Key: full.Key},
		"plain text":        {},
		"half a pair":       {ServerName: full.ServerName, CA: full.CA, Cert: full.Cert},
	} {
		if _, err := version(t.Context(), dial.Options{Address: daemon.Address(), TLS: wrong}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTLSDirectory(t *testing.T) {
	t.Parallel()
	if _, err := (dial.TLS{Dir: t.TempDir()}).Resolve(); err == nil || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := (dial.TLS{Dir: "x", CA: "y"}).Resolve(); err == nil {
		t.Error("a directory and a file were accepted together")
	}
}

func TestWaitForADaemonThatComesLater(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kiln")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "d.sock")
	conn, err := dial.Dial(dial.Options{Address: "unix://" + path, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := dial.Wait(short, conn); err == nil {
		t.Fatal("waited for nothing")
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	daemontest.Serve(t, listener, "")
	long, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := dial.Wait(long, conn); err != nil {
		t.Error(err)
	}
}

func TestAddressesThatAreRefused(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"":                                  "no scheme",
		"/run/x.sock":                       "no scheme",
		"unix://":                           "socket",
		"tcp://host":                        "port",
		"http://host:1":                     "not known",
		"ssh://user:pw@host":                "password",
		"ssh://host?x=1":                    "query",
		"ssh://-oProxyCommand=x":            "dash",
		"docker-container://":               "name of the container",
		"kube-pod://Bad_Pod":                "unsupported pod name",
		"kube-pod://pod?namespace=a/b":      "unsupported namespace name",
		"kube-pod://pod?container=-x":       "dash",
		"podman-container://-v?context=any": "dash",
	} {
		_, err := dial.Dial(dial.Options{Address: address})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", address, err, want)
		}
	}
}
