package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

// Retry says how a request that failed for no lasting reason is repeated.
type Retry struct {
	Attempts int           // in all
	First    time.Duration // pause, doubled each time, a bit at random
	Max      time.Duration // pause
}

// DefaultRetry takes about two seconds in all.
var DefaultRetry = Retry{Attempts: 5, First: 100 * time.Millisecond, Max: 5 * time.Second}

// UnreachableError says that a registry's host couldn't be spoken to, although
// that was tried more than once where it could have helped.
type UnreachableError struct {
	Host string
	Err  error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("registry host %s can't be reached: %v", e.Host, e.Err)
}

// Unwrap gives the cause, which counts as errdefs.ErrUnavailable.
func (e *UnreachableError) Unwrap() []error { return []error{e.Err, errdefs.ErrUnavailable} }

// retryTransport repeats requests that can be repeated: those without a body.
type retryTransport struct {
	next  http.RoundTripper
	retry Retry
	wait  time.Duration // for an answer to such a request
}

func (t *retryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	attempts, send := t.retry.Attempts, t.answered
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		attempts, send = 1, t.next.RoundTrip
	}
	for n := 1; ; n++ {
		resp, err := send(req)
		last := n >= attempts
		if err != nil {
			if ctxErr := context.Cause(req.Context()); ctxErr != nil {
				return nil, ctxErr
			}
			if last || isLasting(err) {
				return nil, &UnreachableError{Host: req.URL.Host, Err: err}
			}
		} else if last || !isOverload(resp.StatusCode) {
			return resp, nil
		}
		if err := t.pause(req.Context(), n, resp); err != nil {
			return nil, err
		}
	}
}

// How long an answer may take, which says how large a body is and no more. The next
// host is a better answer than none.
const (
	answerTimeout = time.Minute
	mirrorTimeout = 10 * time.Second
)

// silentError says that a host took a request and didn't answer it.
type silentError struct{ after time.Duration }

func (e silentError) Error() string { return fmt.Sprintf("no answer within %s", e.after) }

// answered sends a request and waits for the answer's header, within bounds.
func (t *retryTransport) answered(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	timer := time.AfterFunc(t.wait, cancel)
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	late := !timer.Stop()
	if err == nil && !late {
		resp.Body = body{resp.Body, cancel}
		return resp, nil
	}
	cancel()
	if resp != nil {
		resp.Body.Close()
	}
	if late {
		err = silentError{t.wait}
	}
	return nil, err
}

// body ends its request's context when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// mirrorTransport speaks to a host of several. One that couldn't be reached isn't
// asked again.
type mirrorTransport struct {
	next http.RoundTripper
	down atomic.Pointer[UnreachableError]
}

func (t *mirrorTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if down := t.down.Load(); down != nil {
		return nil, down
	}
	resp, err := t.next.RoundTrip(req)
	if down := (*UnreachableError)(nil); errors.As(err, &down) {
		t.down.Store(down)
	}
	return resp, err
}

// CloseIdleConnections is what http.Client looks for.
func (t *mirrorTransport) CloseIdleConnections() { closeIdle(t.next) }

// pause gives up the response and waits, for as long as it asks to within
// bounds.
func (t *retryTransport) pause(ctx context.Context, attempt int, resp *http.Response) error {
	d := min(t.retry.First<<min(attempt-1, 20), t.retry.Max)
	d += time.Duration(rand.Int64N(int64(d)/4 + 1))
	if resp != nil {
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
			d = min(time.Duration(min(s, 3600))*time.Second, max(t.retry.Max, d))
		}
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
		resp.Body.Close()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// CloseIdleConnections is what http.Client looks for.
func (t *retryTransport) CloseIdleConnections() { closeIdle(t.next) }

func closeIdle(t http.RoundTripper) {
	if c, ok := t.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// limitBody bounds what a token server can have us read.
type limitBody struct{ next http.RoundTripper }

const maxTokenBody = 1 << 20

func (t limitBody) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxTokenBody), resp.Body}
	}
	return resp, err
}

func isOverload(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// isLasting tells errors that the next attempt will meet again.
func isLasting(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.IsNotFound
	}
	var silent silentError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	return errors.As(err, &silent) || errors.As(err, &cert) || errors.As(err, &record) || errors.As(err, &alert)
}
