package proxy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/kiln-build/kiln/builder/event"
	digest "github.com/opencontainers/go-digest"
)

// forward answers a request with what its URL, or the one that takes its place, gives.
func (n *Network) forward(w http.ResponseWriter, r *http.Request, asked *url.URL) {
	target, err := n.target(r, canonical(asked))
	if err != nil {
		n.proxy.record(event.Fetch{Method: r.Method, URL: canonical(asked).String(), Status: http.StatusForbidden})
		http.Error(w, "Forbidden: "+err.Error(), http.StatusForbidden)
		return
	}
	r.URL = target
	r.Header.Del("Upgrade") // what would follow is no content
	fetch := event.Fetch{Method: r.Method, URL: target.String()}
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL, r.Out.Host = target, "" // the host is that of the URL
			r.Out.Header.Del("Accept-Encoding")
		},
		Transport:     n.transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			fetch.Status, fetch.Incomplete = http.StatusBadGateway, event.NoAnswer
			n.proxy.record(fetch)
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
		ModifyResponse: func(resp *http.Response) error {
			n.answered(fetch, r, resp)
			return nil
		},
	}
	p.ServeHTTP(w, r)
}

// target is the URL to fetch for the one that is asked for.
func (n *Network) target(r *http.Request, asked *url.URL) (*url.URL, error) {
	if n.proxy.authority.check == nil {
		return asked, nil
	}
	text, err := n.proxy.authority.check(r.Context(), asked.String())
	if err != nil || text == asked.String() {
		return asked, err
	}
	if r.Method != http.MethodGet {
		return nil, fmt.Errorf("the policy converts %s, which can only be done for GET, not for %s", asked, r.Method)
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("the policy converts %s to %q, which is no http or https URL", asked, text)
	}
	return canonical(u), nil
}

// answered records an answer, and what its content is when that has been read.
func (n *Network) answered(f event.Fetch, r *http.Request, resp *http.Response) {
	f.Status = resp.StatusCode
	if to, err := resp.Location(); err == nil {
		f.Location = canonical(to).String()
	}
	switch {
	case r.Method != http.MethodGet:
		f.Incomplete = event.NotMaterial
	case r.Header.Get("Range") != "" || resp.StatusCode == http.StatusPartialContent:
		f.Incomplete = event.PartialAnswer
	case resp.StatusCode >= 400:
		f.Incomplete = event.NoSuccess
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		f.Incomplete = event.BodyReadFailed // unless it is read to its end
		body := &material{ReadCloser: resp.Body, hash: sha256.New()}
		body.found = n.proxy.record(f)
		resp.Body = body
		return
	}
	n.proxy.record(f)
}

// material is a body whose digest is found when all of it has been read.
type material struct {
	io.ReadCloser
	hash  hash.Hash
	found func(func(*event.Fetch))
}

func (m *material) Read(p []byte) (int, error) {
	k, err := m.ReadCloser.Read(p)
	m.hash.Write(p[:k])
	if errors.Is(err, io.EOF) {
		sum := digest.NewDigest(digest.SHA256, m.hash)
		m.found(func(f *event.Fetch) { f.Digest, f.Incomplete = sum, "" })
	}
	return k, err
}
