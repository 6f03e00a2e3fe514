package netpool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
)

// wires is a Connector that only keeps books.
type wires struct {
	mu        sync.Mutex
	connected map[string]string // the host names, by ID
	refuse    error
}

func (w *wires) Connect(_ context.Context, ns *Namespace) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connected[ns.ID] = ns.Hostname
	if !ns.Exists() {
		return errors.New("there is no namespace")
	}
	return w.refuse
}

func (w *wires) Disconnect(_ context.Context, ns *Namespace) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse == nil || !strings.Contains(w.refuse.Error(), "stuck") {
		delete(w.connected, ns.ID)
		return nil
	}
	return w.refuse
}

func (w *wires) say(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = err
}

func opened(t *testing.T, dir string, ready int) (*Pool, *wires) {
	t.Helper()
	w := &wires{connected: map[string]string{}}
	p, err := Open(dir, ready, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.say(nil)
		p.Close()
		Clear(dir)
	})
	return p, w
}

func take(t *testing.T, p *Pool, req sandbox.NetworkRequest) *Namespace {
	t.Helper()
	ns, err := p.New(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return ns.(*Namespace)
}

// waiting waits until so many networks wait to be used.
func waiting(t *testing.T, p *Pool, want int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		p.idle.mu.Lock()
		n := len(p.idle.waiting)
		p.idle.mu.Unlock()
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d networks wait, not %d", n, want)
		}
	}
}

func wantNothingLeft(t *testing.T, p *Pool, w *wires) {
	t.Helper()
	if left, err := os.ReadDir(p.dir); err != nil || len(left) > 0 {
		t.Errorf("namespaces: %v, %v", left, err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), p.dir) {
		t.Errorf("mounts:\n%s", mounts)
	}
	if len(w.connected) > 0 {
		t.Errorf("connected: %v", w.connected)
	}
}

func TestUsedAgain(t *testing.T) {
	t.Parallel()
	p, w := opened(t, filepath.Join(t.TempDir(), "made"), 0)
	a, b := take(t, p, sandbox.NetworkRequest{}), take(t, p, sandbox.NetworkRequest{})
	if a.Path() == b.Path() || !a.Exists() || !b.Exists() {
		t.Fatalf("two processes: %s, %s", a.Path(), b.Path())
	}
	a.Close()
	b.Close()
	if again := take(t, p, sandbox.NetworkRequest{}); again != b {
		t.Errorf("%s was not used again, but %s", b.ID, again.ID)
	}
	for _, req := range []sandbox.NetworkRequest{{Exclusive: true}, {Hostname: "me"}} {
		ns := take(t, p, req)
		if ns == a || w.connected[ns.ID] != req.Hostname {
			t.Errorf("%+v: got %s, connected as %q", req, ns.ID, w.connected[ns.ID])
		}
		ns.Close()
		p.idle.mu.Lock()
		if slices.Contains(p.idle.waiting, ns) {
			t.Errorf("after %+v: the network waits to be used again", req)
		}
		p.idle.mu.Unlock()
	}
	p.Close()
	b.Close() // after the end
	wantNothingLeft(t, p, w)
}

func TestReady(t *testing.T) {
	t.Parallel()
	p, w := opened(t, t.TempDir(), 2)
	waiting(t, p, 2)
	p.idle.mu.Lock()
	ready := slices.Clone(p.idle.waiting)
	p.idle.mu.Unlock()
	ns := take(t, p, sandbox.NetworkRequest{})
	if !slices.Contains(ready, ns) {
		t.Error("the process has waited for a network")
	}
	waiting(t, p, 2) // another one took its place
	p.idle.mu.Lock()
	p.idle.keep = 20 * time.Millisecond
	p.idle.mu.Unlock()
	ns.Close()
	waiting(t, p, 2)
	w.say(errors.New("no more"))
	take(t, p, sandbox.NetworkRequest{})
	take(t, p, sandbox.NetworkRequest{})
	waiting(t, p, 0)
	if _, err := p.New(t.Context(), sandbox.NetworkRequest{}); err == nil || !strings.Contains(err.Error(), "no more") {
		t.Errorf("got %v", err)
	}
	w.say(nil)
	take(t, p, sandbox.NetworkRequest{})
	waiting(t, p, 2)
	if n := len(w.connected); n != 5 {
		t.Errorf("%d networks are connected", n)
	}
}

// TestLeft: what an earlier pool left is removed, also where it had not even been
// mounted, and what could not be disconnected is left for the next one.
func TestLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	killed, _ := opened(t, dir, 0)
	take(t, killed, sandbox.NetworkRequest{})
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stuck, w := opened(t, dir, 0)
	stuck.Close()
	wantNothingLeft(t, stuck, w)

	stuck, w = opened(t, dir, 0)
	ns := take(t, stuck, sandbox.NetworkRequest{})
	w.say(errors.New("stuck"))
	ns.Close()
	stuck.Close()
	if !ns.Exists() {
		t.Error("a network is gone that could not be disconnected")
	}
	p, w := opened(t, dir, 0)
	w.connected[ns.ID] = ""
	p.Close()
	wantNothingLeft(t, p, w)
}

func TestClear(t *testing.T) {
	t.Parallel()
	p, _ := opened(t, t.TempDir(), 0)
	take(t, p, sandbox.NetworkRequest{})
	if err := Clear(p.dir); err != nil {
		t.Error(err)
	}
	wantNothingLeft(t, p, &wires{})
	if err := Clear(filepath.Join(p.dir, "nothing")); err != nil {
		t.Error(err)
	}
}
