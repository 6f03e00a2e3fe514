package sandboxtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/proxy"
)

var proxied = map[string]test{
	"proxy":                        testProxy,
	"proxy before the host":        testProxyBeforeHost,
	"proxy and no network":         testProxyNone,
	"proxy in another process":     testProxyExec,
	"proxy is trusted meanwhile":   testProxyTrust,
	"proxy stays in no bundle":     testProxyTrustReplaced,
	"proxy can't be removed":       testProxyTrustTooLarge,
	"proxy on a read-only root":    testProxyTrustReadonly,
	"proxy of an insecure process": testProxyInsecure,
}

// site is a server on this machine that says hello.
func site(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	t.Cleanup(s.Close)
	return s.URL
}

// behind puts a proxy before the network of s.
func behind(t *testing.T, s sandbox.Spec) sandbox.Spec {
	t.Helper()
	a, err := proxy.NewAuthority(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Proxy = a.New()
	s.Network = sandbox.NetworkHost
	return s
}

func testProxy(t *testing.T, r sandbox.Runner) {
	url := site(t)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	s := behind(t, newSpec(t, "NO_PROXY= no_proxy= wget -q -O- http://known:"+port+"/; echo; env | grep -ic proxy; ip route | wc -l; unset http_proxy HTTP_PROXY; wget -T 2 -q -O- "+url+" || echo refused"))
	s.Env = append(s.Env, "http_proxy=http://other.invalid", "ALL_PROXY=x", "FTP_PROXY=y")
	s.ExtraHosts = []sandbox.Host{{Name: "Known", IP: "127.0.0.1"}}
	got := mustOutput(t, r, s)
	if !strings.HasPrefix(got, "hello\n9\n1\nrefused") {
		t.Errorf("got %q", got)
	}
	if got, want := s.Proxy.Summary(), "proxy network requests:\n- GET http://known:"+port+"/ -> 200\n"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
}

// testProxyBeforeHost: a process that may use the host's network does that through
// its proxy, and only so.
func testProxyBeforeHost(t *testing.T, r sandbox.Runner) {
	url := site(t)
	s := behind(t, newSpec(t, "ls -l /proc/self/ns/net; ls /sys/class/net; unset NO_PROXY no_proxy; wget -q -O- "+url+"; unset http_proxy HTTP_PROXY; wget -T 2 -q -O- "+url+" || echo refused"))
	got := mustOutput(t, r, s)
	host, err := os.Readlink("/proc/self/ns/net")
	if err != nil || strings.Contains(got, host) || !strings.Contains(got, "eth0\nlo\nhellorefused") {
		t.Errorf("got %q, %v", got, err)
	}
}

func testProxyNone(t *testing.T, r sandbox.Runner) {
	s := behind(t, newSpec(t, "env | grep -i proxy; cat /etc/ssl/cert.pem; ip link | grep -c eth0"))
	s.Network = sandbox.NetworkNone
	putBundle(t, s.Root)
	if got, _ := output(t, r, s); got != "mine\n0\n" {
		t.Errorf("got %q", got)
	}
}

func testProxyExec(t *testing.T, r sandbox.Runner) {
	url := site(t)
	s := behind(t, newSpec(t, "sleep 1000"))
	s.Shared = true
	ended := begin(t, r, s)
	var out, errs bytes.Buffer
	p := sandbox.Process{
		Args: []string{"/bin/sh", "-c", "echo $MINE $ALL_PROXY; no_proxy= NO_PROXY= wget -q -O- " + url},
		Env:  []string{"PATH=/bin", "MINE=1", "ALL_PROXY=x"},
	}
	err := r.Exec(t.Context(), s.ID, p, sandbox.IO{Stdout: &out, Stderr: &errs}, nil)
	if got := out.String(); err != nil || got != "1 http://10.89.0.1:3128\nhello" {
		t.Errorf("got %q, %v, %s", got, err, errs.String())
	}
	ended()
}

// begin runs s until the function that it returns is called.
func begin(t *testing.T, r sandbox.Runner, s sandbox.Spec) (end func()) {
	t.Helper()
	ctx, cancel := contextWithTimeout(t)
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- r.Run(ctx, s, sandbox.IO{}, func() { close(up) }) }()
	select {
	case <-up:
	case err := <-done:
		cancel()
		t.Fatal(err)
	}
	return func() {
		cancel()
		<-done //nolint:errcheck // it was killed
	}
}

// putBundle makes a bundle of certificates ("mine"), with a link to it, of some years ago.
func putBundle(t *testing.T, root string) (file string) {
	t.Helper()
	dir := filepath.Join(root, "etc/ssl/certs")
	file = filepath.Join(dir, "ca-certificates.crt")
	then := time.Unix(1e9, 123)
	for _, err := range []error{
		os.MkdirAll(dir, 0o755), os.WriteFile(file, []byte("mine\n"), 0o444),
		os.Symlink("/etc/ssl/certs/ca-certificates.crt", filepath.Join(root, "etc/ssl/cert.pem")),
		os.Chtimes(file, then, then),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return file
}

func testProxyTrust(t *testing.T, r sandbox.Runner) {
	s := behind(t, newSpec(t, "cat /etc/ssl/cert.pem"))
	file := putBundle(t, s.Root)
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	got := mustOutput(t, r, s)
	if !strings.HasPrefix(got, "mine\n\n# buildkit proxy CA begin\n") || strings.Count(got, string(s.Proxy.Certificate())) != 1 {
		t.Errorf("got %q", got)
	}
	text, err := os.ReadFile(file)
	after, _ := os.Stat(file)
	if err != nil || string(text) != "mine\n" || !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() {
		t.Errorf("%q, %v, %v", text, after, err)
	}
	left, _ := os.ReadDir(filepath.Dir(file))
	if len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// testProxyTrustReplaced: what a process does to bundles stays, but the certificate.
func testProxyTrustReplaced(t *testing.T, r sandbox.Runner) {
	s := behind(t, newSpec(t, `cd /etc/ssl/certs
grep -v '^#' ca-certificates.crt >new; echo more >>new; mv new ca-certificates.crt
mkdir -p /etc/pki/tls/certs; cat ca-certificates.crt >/etc/pki/tls/certs/ca-bundle.crt
ln -s /dev/null /etc/ssl/ca-bundle.pem; mkdir -p /etc/pki/tls/cacert.pem`))
	file := putBundle(t, s.Root)
	mustOutput(t, r, s)
	for _, name := range []string{file, filepath.Join(s.Root, "etc/pki/tls/certs/ca-bundle.crt")} {
		text, err := os.ReadFile(name)
		if err != nil || string(text) != "mine\n\nmore\n" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

func testProxyTrustTooLarge(t *testing.T, r sandbox.Runner) {
	s := behind(t, newSpec(t, "dd if=/dev/zero bs=1048576 count=11 >>/etc/ssl/cert.pem 2>/dev/null; exit 42"))
	putBundle(t, s.Root)
	_, err := output(t, r, s)
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) || exit.Code != 42 || !strings.Contains(err.Error(), "failed to clean up proxy CA: /etc/ssl/certs/ca-certificates.crt exceeds 10485760 bytes") {
		t.Errorf("got %v", err)
	}
}

func testProxyTrustReadonly(t *testing.T, r sandbox.Runner) {
	s := behind(t, newSpec(t, "cat /etc/ssl/certs/ca-certificates.crt"))
	file := putBundle(t, s.Root)
	s.ReadonlyRoot = true
	got := mustOutput(t, r, s)
	if want := "mine\n" + string(s.Proxy.Certificate()); got+"\n" != want {
		t.Errorf("got %q", got)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "mine\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// testProxyInsecure: one who may change the network gets nowhere by that.
func testProxyInsecure(t *testing.T, r sandbox.Runner) {
	url := site(t)
	s := behind(t, newSpec(t, "ip route add default via 10.89.0.1; ip addr show eth0 | grep -c inet; unset http_proxy HTTP_PROXY; wget -T 2 -q -O- "+strings.Replace(url, "127.0.0.1", "1.1.1.1", 1)+" || echo nowhere"))
	s.Security = sandbox.Insecure
	if got := mustOutput(t, r, s); !strings.Contains(got, "\nnowhere") {
		t.Errorf("got %q", got)
	}
}
