package registrytest

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Proxy stands in front of a registry, writes down the requests, and lets a
// test answer in the registry's place.
type Proxy struct {
	Host string

	// Answer may answer a request; where it returns false the registry does.
	// It must be set before the first request.
	Answer func(w http.ResponseWriter, r *http.Request) bool

	mu   sync.Mutex
	seen []string
}

// StartProxy runs a proxy for the registry, without TLS.
func StartProxy(t testing.TB, s *Server) *Proxy {
	t.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{}
	next := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport: s.client.Transport,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.seen = append(p.seen, r.Method+" "+r.URL.Path)
		p.mu.Unlock()
		if p.Answer == nil || !p.Answer(w, r) {
			next.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	p.Host = strings.TrimPrefix(srv.URL, "http://")
	return p
}

// Seen gives the requests so far whose text contains part.
func (p *Proxy) Seen(part string) (found []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seen {
		if strings.Contains(s, part) {
			found = append(found, s)
		}
	}
	return found
}
