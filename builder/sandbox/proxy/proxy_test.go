package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/sandbox/netns"
	digest "github.com/opencontainers/go-digest"
)

// network is an open network, and what a test does in the place of a process.
type network struct {
	*Network
	*Proxy
	t      *testing.T
	client *http.Client
}

// open makes a network whose proxy goes on in this namespace.
func open(t *testing.T, check Check, egress Egress) *network {
	t.Helper()
	a, err := NewAuthority(check)
	if err != nil {
		t.Fatal(err)
	}
	p, dir := a.New(), t.TempDir()
	n, err := p.Open(Place{Dir: dir, Egress: egress})
	if err != nil {
		t.Fatal(err)
	}
	n.transport.Proxy = nil // whatever the tests' environment says
	out := &network{n, p, t, nil}
	t.Cleanup(func() {
		out.close()
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.Certificate())
	proxy := p.Env()[0]
	out.client = &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{
			Proxy: func(*http.Request) (*url.URL, error) {
				return url.Parse(strings.TrimPrefix(proxy, "HTTP_PROXY="))
			},
			DialContext:     out.dial,
			TLSClientConfig: &tls.Config{RootCAs: roots},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return out
}

func (n *network) close() {
	if n.client != nil {
		n.client.CloseIdleConnections()
	}
	if err := n.Close(); err != nil {
		n.t.Error(err)
	}
}

// dial connects as a process in the network does.
func (n *network) dial(ctx context.Context, kind, addr string) (c net.Conn, err error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	err = netns.Do(n.Path(), func() error {
		c, err = d.DialContext(ctx, kind, addr)
		return err
	})
	return c, err
}

func (n *network) do(req *http.Request) (int, string) {
	n.t.Helper()
	resp, err := n.client.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Errorf("%s: %v", req.URL, err)
	}
	return resp.StatusCode, string(body)
}

func (n *network) get(url string) (int, string) {
	n.t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.do(req)
}

// wantFetches compares the records, with BASE for the URL.
func (n *network) wantFetches(base string, want ...string) {
	n.t.Helper()
	all, more := n.Fetches()
	var got []string
	for _, f := range all {
		got = append(got, strings.TrimSpace(strings.ReplaceAll(fmt.Sprintf("%s %s %d %s%s %.10s",
			f.Method, f.URL, f.Status, f.Location, f.Incomplete, encoded(f.Digest)), base, "BASE")))
	}
	if more != 0 || !slices.Equal(got, want) {
		n.t.Errorf("%d more than\n%s\nwant\n%s", more, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func sum(s string) string { return digest.FromString(s).Encoded()[:10] }

// origin is a server somewhere outside.
func origin(t *testing.T) *httptest.Server {
	t.Helper()
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hello":
			fmt.Fprint(w, "hello")
		case "/moved":
			http.Redirect(w, r, "/hello", http.StatusFound)
		case "/echo":
			r.Header.Write(w)
			fmt.Fprintf(w, "Host: %s\n", r.Host)
			io.Copy(w, r.Body)
		case "/broken":
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "hel")
		case "/partial":
			w.WriteHeader(http.StatusPartialContent)
		case "/slow":
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
}

func serve(t *testing.T) string {
	t.Helper()
	s := origin(t)
	t.Cleanup(s.Close)
	return s.URL
}

func TestRequests(t *testing.T) {
	t.Parallel()
	base := serve(t)
	n := open(t, nil, Egress{})
	for _, c := range []struct {
		path   string
		status int
		body   string
	}{
		{"/hello", 200, "hello"},
		{"/nothing", 404, "404 page not found\n"},
		{"/moved", 302, "<a href=\"/hello\">Found</a>.\n\n"},
		{"/partial", 206, ""},
	} {
		if status, body := n.get(base + c.path); status != c.status || body != c.body {
			t.Errorf("%s: %d, %q", c.path, status, body)
		}
	}
	req, _ := http.NewRequest(http.MethodPost, base+"/echo?q=1", strings.NewReader("sent"))
	for k, v := range map[string]string{
		"Proxy-Authorization": "secret", "Upgrade": "websocket", "Connection": "Upgrade", "Accept-Encoding": "gzip", "X-Mine": "kept",
	} {
		req.Header.Set(k, v)
	}
	if _, body := n.do(req); !strings.HasSuffix(body, "sent") || !strings.Contains(body, "X-Mine: kept") ||
		strings.Contains(body, "secret") || strings.Contains(body, "Upgrade") || strings.Contains(body, "gzip") {
		t.Errorf("the server got %q", body)
	}
	req, _ = http.NewRequest(http.MethodGet, base+"/hello", nil)
	req.Header.Set("Range", "bytes=0-1")
	n.do(req)
	resp, err := n.client.Get(base + "/broken")
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("read %q", body)
	}
	resp.Body.Close()
	n.get("http://127.0.0.1:1/")
	n.client.CloseIdleConnections()
	n.close()
	n.wantFetches(base,
		"GET BASE/hello 200  "+sum("hello"),
		"GET BASE/nothing 404 unsuccessful_response",
		"GET BASE/moved 302 BASE/hello",
		"GET BASE/partial 206 partial_response",
		"POST BASE/echo?q=1 200 method_not_materializable",
		"GET BASE/hello 200 partial_response",
		"GET BASE/broken 200 body_read_failed",
		"GET http://127.0.0.1:1/ 502 upstream_error",
	)
	if text := n.Summary(); !strings.HasPrefix(text, "proxy network requests:\n- GET "+base+"/hello -> 200\n- GET "+base+"/nothing -> 404\n") {
		t.Errorf("summary %q", text)
	}
}

// TestOpened: TLS is opened with a certificate of the build, and closed with the
// server by the roots of this machine.
func TestOpened(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Host, " ", r.URL)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	n := open(t, nil, Egress{Hosts: map[string]string{"example.com": "127.0.0.1"}})
	base := "https://example.com:" + port
	if status, body := n.get(base + "/a"); status != 502 || !strings.Contains(body, "certificate") {
		t.Errorf("a server nobody knows: %d %s", status, body)
	}
	n.transport.TLSClientConfig = &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	for range 2 {
		req, _ := http.NewRequest(http.MethodGet, base+"/a?b=c", nil)
		req.Host = "other.example"
		if status, body := n.do(req); status != 200 || body != "example.com:"+port+" /a?b=c" {
			t.Errorf("got %d %q", status, body)
		}
	}
	n.close()
	content := sum("example.com:" + port + " /a?b=c")
	n.wantFetches(base, "GET BASE/a 502 upstream_error", "GET BASE/a?b=c 200  "+content, "GET BASE/a?b=c 200  "+content)
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	base := serve(t)
	var asked []string
	n := open(t, func(_ context.Context, url string) (string, error) {
		asked = append(asked, url)
		switch {
		case strings.HasSuffix(url, "/denied"):
			return "", errors.New("never")
		case strings.HasSuffix(url, "/old"):
			return base + "/hello", nil
		case strings.HasSuffix(url, "/odd"):
			return "docker-image://x", nil
		}
		return url, nil
	}, Egress{})
	if status, body := n.get(base + "/denied"); status != 403 || !strings.Contains(body, "never") {
		t.Errorf("denied: %d %q", status, body)
	}
	if status, body := n.get(base + "/old"); status != 200 || body != "hello" {
		t.Errorf("replaced: %d %q", status, body)
	}
	if status, _ := n.get(base + "/odd"); status != 403 {
		t.Errorf("replaced by what isn't http: %d", status)
	}
	req, _ := http.NewRequest(http.MethodPut, base+"/old", nil)
	if status, _ := n.do(req); status != 403 {
		t.Errorf("replaced, but not for GET: %d", status)
	}
	n.close()
	n.wantFetches(base, "GET BASE/denied 403", "GET BASE/hello 200  "+sum("hello"), "GET BASE/odd 403", "PUT BASE/old 403")
	if want := []string{base + "/denied", base + "/old", base + "/odd", base + "/old"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v", asked)
	}
}

// TestCanonical: nobody gets around a policy by writing a URL in another way.
func TestCanonical(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"http://EXAMPLE.com.:80":           "http://example.com/",
		"https://u:p@example.com:443/a#b":  "https://example.com/a",
		"https://example.com:80/A%2fb?c=d": "https://example.com:80/A%2fb?c=d",
		"http://[::1]:80/x":                "http://[::1]/x",
		"http://[::1]:81/x":                "http://[::1]:81/x",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := canonical(u).String(); got != want {
			t.Errorf("%s: got %s", in, got)
		}
	}
}

// TestNothingElse: a process reaches its proxy and nothing else.
func TestNothingElse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n := open(t, nil, Egress{})
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"127.0.0.1", "10.89.0.1", "10.89.0.2", "1.1.1.1", "::1"}
	for _, a := range addrs {
		hosts = append(hosts, a.(*net.IPNet).IP.String())
	}
	for _, h := range hosts {
		if c, err := n.dial(t.Context(), "tcp", net.JoinHostPort(h, port)); err == nil {
			t.Errorf("%s is reached", h)
			c.Close()
		}
	}
}

// TestEgress: the proxy goes on in the namespace that it is told, with names by the
// name servers there.
func TestEgress(t *testing.T) {
	t.Parallel()
	ns := t.TempDir() + "/ns"
	if err := netns.Make(ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Remove(ns) })
	var l net.Listener
	var dns net.PacketConn
	if err := netns.Do(ns, func() (err error) {
		if l, err = net.Listen("tcp4", "127.0.0.1:80"); err == nil {
			dns, err = net.ListenPacket("udp4", "127.0.0.2:53")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer dns.Close()
	go answerNames(dns)
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "inside ", r.Host)
	})}}
	s.Start()
	defer s.Close()
	here := serve(t)
	n := open(t, nil, Egress{Namespace: ns, Nameservers: []string{"127.0.0.2"}, Hosts: map[string]string{"known.test": "127.0.0.1"}})
	for _, host := range []string{"127.0.0.1", "known.test", "named.test."} {
		if status, body := n.get("http://" + host + "/"); status != 200 || body != "inside "+strings.TrimSuffix(host, ".") {
			t.Errorf("%s: %d %q", host, status, body)
		}
	}
	if status, body := n.get(here + "/hello"); status != 502 {
		t.Errorf("this machine's loopback is reached: %d %q", status, body)
	}
}

// answerNames answers all questions for an IPv4 address with 127.0.0.1, and others
// with nothing.
func answerNames(c net.PacketConn) {
	buf := make([]byte, 512)
	for {
		k, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		question := 12 + bytes.IndexByte(buf[12:k], 0) + 5
		reply := slices.Clone(buf[:question])
		reply[2], reply[3] = 0x81, 0x80
		binary.BigEndian.PutUint64(reply[4:], 1<<48) // one question, no answer
		if binary.BigEndian.Uint16(reply[question-4:]) == 1 {
			reply[7] = 1
			reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1)
		}
		c.WriteTo(reply, from)
	}
}

// TestHostile: what is no request for a proxy is refused, and nothing of it is left.
func TestHostile(t *testing.T) {
	t.Parallel()
	n := open(t, nil, Egress{})
	for request, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":                                         "400 ",
		"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n":                                  "400 ",
		"CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n":                                     "400 ",
		"CONNECT " + strings.Repeat("x", 300) + ":1 HTTP/1.1\r\nHost: x\r\n\r\n":    "400 ",
		"GET http://x/" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r": "431 ",
		"nonsense\r\n\r\n": "400 ",
		"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\nno TLS at all": "200 ",
	} {
		c, err := n.dial(t.Context(), "tcp", listenAddress)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		go io.WriteString(c, request)
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 "+want) {
			t.Errorf("%.40q: %q, %v", request, line, err)
		}
		c.Close()
	}
	if all, more := n.Fetches(); len(all) > 0 || more > 0 {
		t.Errorf("recorded %v", all)
	}
}

func TestRecordsAreBounded(t *testing.T) {
	t.Parallel()
	p := &Proxy{}
	for range maxKept + 10 {
		p.record(event.Fetch{Method: "GET", URL: "u", Status: 200})
	}
	if all, more := p.Fetches(); len(all) != maxKept || more != 10 || !strings.HasSuffix(p.Summary(), "- and 10 more\n") {
		t.Errorf("%d kept, %d more", len(all), more)
	}
	p = &Proxy{}
	for range 10 {
		p.record(event.Fetch{URL: strings.Repeat("u", maxKeptSize/4)})
	}
	if all, more := p.Fetches(); len(all) != 4 || more != 6 {
		t.Errorf("%d long ones kept, %d more", len(all), more)
	}
}

// TestNothingIsLeft: requests that are under way end with the network.
func TestNothingIsLeft(t *testing.T) {
	base := serve(t)
	n := open(t, nil, Egress{})
	resp, err := n.client.Get(base + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	c, err := n.dial(t.Context(), "tcp", listenAddress) // says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	half, err := n.dial(t.Context(), "tcp", listenAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	io.WriteString(half, "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n")
	bufio.NewReader(half).ReadString('\n') //nolint:errcheck // it is up to here
	begin := time.Now()
	n.close()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the request went on")
	}
	var stacks bytes.Buffer
	for range 100 {
		stacks.Reset()
		pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		if !strings.Contains(stacks.String(), "sandbox/proxy.(*Network)") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("goroutines:\n%s", stacks.String())
}

func encoded(d digest.Digest) string {
	if d == "" {
		return ""
	}
	return d.Encoded()
}
