package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// start serves what comes from the listener.
func (n *Network) start(l net.Listener) {
	n.transport = &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            n.egress.dial,
		DisableCompression:     true, // contents are digested
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    handshakeTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
	}
	n.plain = n.server(http.HandlerFunc(n.servePlain))
	n.opened = n.server(http.HandlerFunc(n.serveOpened))
	n.opened.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, authorityKey{}, c.(*tunnel).authority) //nolint:errcheck // the queue has no others
	}
	n.work.Go(func() { n.plain.Serve(l) })          //nolint:errcheck // it says that it was closed
	n.work.Go(func() { n.opened.Serve(n.tunnels) }) //nolint:errcheck // likewise
}

// server is one whose connections count as work, until their handlers have returned.
func (n *Network) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // it is about what the process does wrong
		BaseContext:       func(net.Listener) context.Context { return n.ctx },
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				n.work.Add(1)
			case http.StateClosed:
				n.work.Done()
			case http.StateHijacked: // by connect, which says when it is done
			}
		},
	}
}

// servePlain answers a request as proxies get them.
func (n *Network) servePlain(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		n.connect(w, r)
	case r.URL.Host == "" || r.URL.Scheme != "http" && r.URL.Scheme != "https":
		http.Error(w, "this is a proxy for http and https: it takes requests with a complete URL", http.StatusBadRequest)
	default:
		n.forward(w, r, r.URL)
	}
}

// authorityKey is that of a tunnel's host and port in contexts.
type authorityKey struct{}

// serveOpened answers a request that came through a tunnel.
func (n *Network) serveOpened(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		http.Error(w, "this is a tunnel already", http.StatusBadRequest)
		return
	}
	authority, _ := r.Context().Value(authorityKey{}).(string)
	u := *r.URL
	u.Scheme, u.Host, u.User = "https", authority, nil
	n.forward(w, r, &u)
}

// connect begins a tunnel and opens it: the process speaks TLS with us.
func (n *Network) connect(w http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil || host == "" || len(host) > 253 {
		http.Error(w, "CONNECT takes a host and a port", http.StatusBadRequest)
		return
	}
	cert, err := n.proxy.authority.host(strings.ToLower(host))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer n.work.Done() // see server
	stop := context.AfterFunc(n.ctx, func() { conn.Close() })
	defer stop()
	err = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	t := tls.Server(&rest{conn, buffered.Reader}, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"http/1.1"}})
	if err == nil {
		_, err = io.WriteString(conn, "HTTP/1.1 200 Connection Established\r\n\r\n")
	}
	if err == nil {
		err = t.HandshakeContext(n.ctx)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil || !n.tunnels.put(&tunnel{t, r.Host}) {
		conn.Close()
	}
}

// rest is a connection of which something was read ahead.
type rest struct {
	net.Conn
	r *bufio.Reader
}

func (c *rest) Read(p []byte) (int, error) { return c.r.Read(p) }

// tunnel is a connection on which requests to a host and port come.
type tunnel struct {
	*tls.Conn
	authority string
}

// queue is a listener whose connections are put into it.
type queue struct {
	conns chan net.Conn
	done  context.Context
	close context.CancelFunc
}

func newQueue() *queue {
	q := &queue{conns: make(chan net.Conn)}
	q.done, q.close = context.WithCancel(context.Background())
	return q
}

func (q *queue) put(c net.Conn) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.done.Done():
		return false
	}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.close()
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return &net.TCPAddr{} }

// canonical is the URL that decides, is recorded and fetched: without what can be
// written in several ways or left out.
func canonical(in *url.URL) *url.URL {
	u := *in
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	host, port := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), u.Port()
	if port == "80" && u.Scheme == "http" || port == "443" && u.Scheme == "https" {
		port = ""
	}
	u.Host = host
	switch {
	case port != "":
		u.Host = net.JoinHostPort(host, port)
	case strings.Contains(host, ":"):
		u.Host = "[" + host + "]"
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return &u
}
