package cni

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
)

var bridges atomic.Int32

// newConfig has a bridge that no other test has.
func newConfig(t *testing.T) Config {
	n := bridges.Add(1)
	return Config{
		Dir: t.TempDir(), PluginDir: pluginDir,
		Bridge: &Bridge{Name: fmt.Sprintf("kilntest%d", n), Subnet: fmt.Sprintf("10.77.%d.0/24", n)},
	}
}

func open(t *testing.T, cfg Config) *Provider {
	t.Helper()
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func take(t *testing.T, p *Provider, req sandbox.NetworkRequest) sandbox.NetworkNamespace {
	t.Helper()
	ns, err := p.New(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// in runs a command in a network and gives its output.
func in(t *testing.T, ns sandbox.NetworkNamespace, args ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + ns.Path()}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

func shell(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// wantNothingLeft checks what closed providers have left of the bridge's networks.
func wantNothingLeft(t *testing.T, cfg Config) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(cfg.Dir, "networks"))
	if err != nil || len(left) > 0 {
		t.Errorf("namespaces: %v, %v", left, err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), cfg.Dir) {
		t.Errorf("mounts:\n%s", mounts)
	}
	prefix := strings.TrimSuffix(cfg.Bridge.Subnet, ".0/24") + "."
	rules := shell(t, "iptables-save")
	if strings.Contains(rules, prefix) || !hasBridge(t, cfg.Bridge.Name) && strings.Contains(rules, cfg.Bridge.Name+" ") {
		t.Errorf("rules:\n%s", rules)
	}
	books, _ := filepath.Glob("/var/lib/cni/networks/" + cfg.Bridge.Name + "/" + prefix + "*")
	if len(books) > 0 {
		t.Errorf("addresses are still taken: %v", books)
	}
}

func hasBridge(t *testing.T, name string) bool {
	t.Helper()
	l, err := link(name)
	if err != nil {
		t.Fatal(err)
	}
	return l != nil
}

func TestBridge(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	p := open(t, cfg)
	a, b := take(t, p, sandbox.NetworkRequest{}), take(t, p, sandbox.NetworkRequest{})
	if a.Path() == b.Path() {
		t.Fatal("two processes have the same network")
	}
	for _, ns := range []sandbox.NetworkNamespace{a, b} {
		addrs := in(t, ns, "ip", "-o", "-4", "addr")
		if !strings.Contains(addrs, "eth0") || !strings.Contains(addrs, "127.0.0.1/8") {
			t.Errorf("addresses:\n%s", addrs)
		}
	}
	gateway := strings.TrimSuffix(cfg.Bridge.Subnet, "0/24") + "1"
	l, err := net.Listen("tcp", gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			fmt.Fprint(c, "hello")
			c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if got := in(t, a, "busybox", "nc", gateway, port); got != "hello" {
		t.Errorf("from the gateway: %q", got)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if again := take(t, p, sandbox.NetworkRequest{}); again.Path() != b.Path() {
		t.Errorf("%s was not used again, but %s", b.Path(), again.Path())
	} else {
		again.Close()
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	wantNothingLeft(t, cfg)
	if hasBridge(t, cfg.Bridge.Name) {
		t.Error("the bridge is still there")
	}
}

func TestNetworksThatAreNotUsedAgain(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	p := open(t, cfg)
	for _, req := range []sandbox.NetworkRequest{{Exclusive: true}, {Hostname: "me"}} {
		ns := take(t, p, req)
		ns.Close()
		next := take(t, p, sandbox.NetworkRequest{})
		if next.Path() == ns.Path() {
			t.Errorf("after %+v: the network was used again", req)
		}
		next.(*namespace).exclusive = true
		next.Close()
	}
	if _, err := p.New(t.Context(), sandbox.NetworkRequest{Hostname: "me;K8S_POD_NAMESPACE=x"}); err == nil {
		t.Error("a host name that is an argument more was accepted")
	}
	p.pool.work.Wait()
	wantNothingLeft(t, cfg)
}

func TestAfterACrash(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	crashed := open(t, cfg)
	for range 3 {
		take(t, crashed, sandbox.NetworkRequest{})
	}
	// A namespace that was not even mounted.
	if err := os.WriteFile(filepath.Join(cfg.Dir, "networks", "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := open(t, cfg)
	ns := take(t, p, sandbox.NetworkRequest{})
	p.tidy.Wait()
	if left, err := os.ReadDir(p.networks()); err != nil || len(left) != 1 || left[0].Name() != filepath.Base(ns.Path()) {
		t.Errorf("networks: %v, %v", left, err)
	}
	in(t, ns, "ip", "addr", "show", "eth0")
	ns.Close()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	wantNothingLeft(t, cfg)
	if hasBridge(t, cfg.Bridge.Name) {
		t.Error("the bridge that the first one made is still there")
	}
}

func TestBridgeOfOthers(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	shell(t, "ip link add "+cfg.Bridge.Name+" type bridge")
	p := open(t, cfg)
	take(t, p, sandbox.NetworkRequest{}).Close()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if !hasBridge(t, cfg.Bridge.Name) {
		t.Error("a bridge that was there before was removed")
	}
	used := newConfig(t)
	p = open(t, used)
	take(t, p, sandbox.NetworkRequest{}).Close()
	other := used
	other.Dir = t.TempDir()
	user := open(t, other)
	ns := take(t, user, sandbox.NetworkRequest{})
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if !hasBridge(t, used.Bridge.Name) {
		t.Error("a bridge that somebody uses was removed")
	}
	in(t, ns, "ip", "addr", "show", "eth0")
	ns.Close()
	user.Close()
	p.Close()
	if hasBridge(t, used.Bridge.Name) {
		t.Error("the bridge is still there")
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	one, other := open(t, cfg), cfg
	other.Dir = t.TempDir()
	two := open(t, other)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			p := []*Provider{one, two}[i%2]
			ns, err := p.New(t.Context(), sandbox.NetworkRequest{Exclusive: i%3 == 0})
			if err != nil {
				t.Error(err)
				return
			}
			in(t, ns, "ip", "addr", "show", "eth0")
			ns.Close()
		})
	}
	wg.Wait()
	for _, p := range []*Provider{one, two} {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	wantNothingLeft(t, cfg)
	wantNothingLeft(t, other)
}

func TestPool(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	cfg.Ready = 1
	p := open(t, cfg)
	p.pool.work.Wait()
	if n := len(p.pool.idle); n != 1 {
		t.Fatalf("%d networks are ready", n)
	}
	p.pool.keep = 50 * time.Millisecond
	a, b := take(t, p, sandbox.NetworkRequest{}), take(t, p, sandbox.NetworkRequest{})
	a.Close()
	b.Close()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		p.pool.mu.Lock()
		n := len(p.pool.idle)
		p.pool.mu.Unlock()
		if n == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d networks wait", n)
		}
	}
	held := take(t, p, sandbox.NetworkRequest{})
	p.Close()
	held.Close() // after the end
	wantNothingLeft(t, cfg)
}
