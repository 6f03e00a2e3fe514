package netpool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
)

// maker makes networks that are only names.
type maker struct {
	mu     sync.Mutex
	made   int
	there  []*name
	refuse error
}

// name is a network.
type name struct {
	m              *maker
	path, hostname string
}

func (m *maker) make(_ context.Context, hostname string) (Network, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		return nil, m.refuse
	}
	m.made++
	n := &name{m, fmt.Sprintf("/%d", m.made), hostname}
	m.there = append(m.there, n)
	return n, nil
}

func (n *name) Path() string { return n.path }

func (n *name) Remove(context.Context) error {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	i := slices.Index(n.m.there, n)
	if i < 0 {
		return errors.New("it was removed before")
	}
	n.m.there = slices.Delete(n.m.there, i, i+1)
	return nil
}

func (m *maker) say(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = err
}

func (m *maker) has(n sandbox.NetworkNamespace) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.there, func(o *name) bool { return o.path == n.Path() })
}

func opened(t *testing.T, ready int) (*Pool, *maker) {
	m := &maker{}
	p := New(ready, m.make)
	t.Cleanup(p.Close)
	return p, m
}

func take(t *testing.T, p *Pool, req sandbox.NetworkRequest) sandbox.NetworkNamespace {
	t.Helper()
	n, err := p.New(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// waiting waits until so many networks wait to be used.
func waiting(t *testing.T, p *Pool, want int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		p.idle.mu.Lock()
		n, filling := len(p.idle.waiting), p.idle.filling
		p.idle.mu.Unlock()
		if n == want && !filling {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d networks wait, not %d", n, want)
		}
	}
}

func TestUsedAgain(t *testing.T) {
	t.Parallel()
	p, m := opened(t, 0)
	a, b := take(t, p, sandbox.NetworkRequest{}), take(t, p, sandbox.NetworkRequest{})
	if a.Path() == b.Path() {
		t.Fatal("two processes have one network")
	}
	a.Close()
	b.Close()
	if again := take(t, p, sandbox.NetworkRequest{}); again.Path() != b.Path() {
		t.Errorf("%s was not used again, but %s", b.Path(), again.Path())
	}
	for _, req := range []sandbox.NetworkRequest{{Exclusive: true}, {Hostname: "me"}} {
		n := take(t, p, req)
		if got := n.(*lent).Network.(*name).hostname; n.Path() == a.Path() || got != req.Hostname {
			t.Errorf("%+v: got %s, of host %q", req, n.Path(), got)
		}
		n.Close()
		p.idle.work.Wait()
		if m.has(n) {
			t.Errorf("after %+v: the network is still there", req)
		}
	}
	p.Close()
	if m.has(a) || !m.has(b) {
		t.Errorf("after the end the network that waits is there: %t, the one in use: %t", m.has(a), m.has(b))
	}
	b.Close()
	if len(m.there) > 0 {
		t.Errorf("left: %v", m.there)
	}
}

func TestReady(t *testing.T) {
	t.Parallel()
	p, m := opened(t, 2)
	waiting(t, p, 2)
	n := take(t, p, sandbox.NetworkRequest{})
	if n.Path() != "/1" && n.Path() != "/2" {
		t.Error("the process has waited for a network")
	}
	waiting(t, p, 2) // another one took its place
	m.say(errors.New("no more"))
	take(t, p, sandbox.NetworkRequest{})
	take(t, p, sandbox.NetworkRequest{})
	waiting(t, p, 0)
	if _, err := p.New(t.Context(), sandbox.NetworkRequest{}); !errors.Is(err, m.refuse) {
		t.Errorf("got %v", err)
	}
	m.say(nil)
	take(t, p, sandbox.NetworkRequest{})
	waiting(t, p, 2)
}

// TestTrim: what has waited for long goes, but for what is kept ready.
func TestTrim(t *testing.T) {
	t.Parallel()
	p, m := opened(t, 1)
	waiting(t, p, 1)
	p.idle.mu.Lock()
	p.idle.keep = 50 * time.Millisecond
	p.idle.mu.Unlock()
	var all []sandbox.NetworkNamespace
	for range 5 {
		all = append(all, take(t, p, sandbox.NetworkRequest{}))
	}
	for _, n := range all {
		n.Close()
	}
	waiting(t, p, 1)
	p.idle.work.Wait()
	if len(m.there) != 1 {
		t.Errorf("left: %v", m.there)
	}
}

// TestInterrupted: a network is made to its end, although its process won't come.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	p := New(0, func(ctx context.Context, _ string) (Network, error) { return nil, ctx.Err() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.New(ctx, sandbox.NetworkRequest{}); err != nil {
		t.Errorf("got %v", err)
	}
}
