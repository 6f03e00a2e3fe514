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

	"github.com/kiln-build/kiln/builder/sandbox"
)

var bridges atomic.Int32

// names are those of a bridge that no other test has. Its subnet is PREFIX0/24.
type names struct {
	name, prefix string
}

// newConfig has a network, which needs the plugins bridge, host-local and firewall.
func newConfig(t testing.TB) (Config, names) {
	i := bridges.Add(1)
	n := names{fmt.Sprintf("kilntest%d", i), fmt.Sprintf("10.77.%d.", i)}
	return Config{Dir: t.TempDir(), PluginDir: pluginDir, File: write(t, "c.conflist", n.fill(list))}, n
}

// fill puts the names of a network into the text of a configuration.
func (n names) fill(text string) string {
	return strings.NewReplacer("NAME", n.name, "SUBNET", n.prefix+"0/24").Replace(text)
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

// wantNothingLeft checks what closed providers have left of a network but its bridge,
// which plugins never remove.
func wantNothingLeft(t *testing.T, cfg Config, n names) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(cfg.Dir, "networks"))
	if err != nil || len(left) > 0 {
		t.Errorf("namespaces: %v, %v", left, err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), cfg.Dir) {
		t.Errorf("mounts:\n%s", mounts)
	}
	if rules := shell(t, "iptables-save"); strings.Contains(rules, n.prefix) {
		t.Errorf("rules:\n%s", rules)
	}
	books, _ := filepath.Glob("/var/lib/cni/networks/" + n.name + "/" + n.prefix + "*")
	if len(books) > 0 {
		t.Errorf("addresses are still taken: %v", books)
	}
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	cfg, n := newConfig(t)
	p := open(t, cfg)
	a, b := take(t, p, sandbox.NetworkRequest{}), take(t, p, sandbox.NetworkRequest{Hostname: "me"})
	if a.Path() == b.Path() {
		t.Fatal("two processes have the same network")
	}
	for _, ns := range []sandbox.NetworkNamespace{a, b} {
		addrs := in(t, ns, "ip", "-o", "-4", "addr")
		if !strings.Contains(addrs, "eth0") || !strings.Contains(addrs, "127.0.0.1/8") {
			t.Errorf("addresses:\n%s", addrs)
		}
	}
	gateway := n.prefix + "1"
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
	if _, err := p.New(t.Context(), sandbox.NetworkRequest{Hostname: "me;K8S_POD_NAMESPACE=x"}); err == nil {
		t.Error("a host name that is an argument more was accepted")
	}
	a.Close()
	b.Close()
	if again := take(t, p, sandbox.NetworkRequest{}); again.Path() != a.Path() {
		t.Errorf("%s was not used again, but %s", a.Path(), again.Path())
	} else {
		again.Close()
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	wantNothingLeft(t, cfg, n)
}

func TestAfterACrash(t *testing.T) {
	t.Parallel()
	cfg, n := newConfig(t)
	crashed := open(t, cfg)
	for range 3 {
		take(t, crashed, sandbox.NetworkRequest{})
	}
	p := open(t, cfg)
	ns := take(t, p, sandbox.NetworkRequest{})
	in(t, ns, "ip", "addr", "show", "eth0")
	ns.Close()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	wantNothingLeft(t, cfg, n)
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	cfg, n := newConfig(t)
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
	wantNothingLeft(t, cfg, n)
	wantNothingLeft(t, other, n)
}
