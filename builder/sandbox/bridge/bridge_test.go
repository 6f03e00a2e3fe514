package bridge

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/netns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const here = "/proc/self/ns/net"

// addressOf is the address that a network has on the bridge.
func addressOf(t *testing.T, ns sandbox.NetworkNamespace) string {
	t.Helper()
	var found string
	err := netns.Do(ns.Path(), func() error {
		l, err := netlink.LinkByName(inside)
		if err != nil {
			return err
		}
		all, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err == nil && len(all) == 1 {
			found = all[0].IP.String()
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("address: %q, %v", found, err)
	}
	return found
}

// TestOutside: a process reaches a server outside, which sees the host, although the
// host's firewall drops what it doesn't know.
func TestOutside(t *testing.T) {
	t.Parallel()
	p := opened(t, Config{Name: "outside0"})
	server := listen(t, world, worldAddress)
	ns := take(t, p, sandbox.NetworkRequest{})
	if got, err := call(ns.Path(), server, busy); got != hostAddress || err != nil {
		t.Errorf("outside, the process is seen as %q, %v", got, err)
	}
	if got, err := call(ns.Path(), listen(t, here, p.ports.addresses.gateway.String()), busy); got != addressOf(t, ns) || err != nil {
		t.Errorf("on the host, the process is seen as %q, %v", got, err)
	}
	if links := in(t, ns.Path(), "ip -o link show eth0"); !strings.Contains(links, fmt.Sprintf("mtu %d ", worldMTU)) {
		t.Errorf("packets are longer than outside: %s", links)
	}
	if overlaps(p.ports.addresses.subnet, []destination{{to: netip.MustParsePrefix("10.12.0.0/16")}}) {
		t.Errorf("%s is in use by another interface", p.ports.addresses.subnet)
	}
	ns.Close()
	closeAndCheck(t, p)
}

// TestFirewallSetUpAnew: what others remove from the host's firewall comes back.
func TestFirewallSetUpAnew(t *testing.T) {
	t.Parallel()
	p := opened(t, Config{})
	name := p.table.name
	for _, by := range []string{"-i ", "-o "} {
		shell(t, "iptables -D FORWARD "+by+name+" -m comment --comment 'bridge of kilnd' -j ACCEPT")
	}
	server := listen(t, world, worldAddress)
	ns := take(t, p, sandbox.NetworkRequest{})
	if got, err := call(ns.Path(), server, silent); err == nil {
		t.Fatalf("the host's firewall lets %q through anyway", got)
	}
	p.mu.Lock()
	p.looked = p.looked.Add(-lookEvery)
	p.mu.Unlock()
	take(t, p, sandbox.NetworkRequest{}).Close()
	if got, err := call(ns.Path(), server, busy); got != hostAddress || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if n := strings.Count(shell(t, "iptables -S FORWARD"), " "+name+" "); n != 2 {
		t.Errorf("%d rules", n)
	}
	// Another's rule that says the same isn't ours to remove.
	shell(t, "iptables -A FORWARD -i "+name+" -j ACCEPT")
	p.Close()
	if n := strings.Count(shell(t, "iptables -S FORWARD"), " "+name+" "); n != 1 {
		t.Errorf("%d rules afterwards", n)
	}
	shell(t, "iptables -D FORWARD -i "+name+" -j ACCEPT")
}

// TestIsolation: nobody reaches a process, neither from the bridge, nor by way of the
// host, nor from another bridge or from outside.
func TestIsolation(t *testing.T) {
	t.Parallel()
	p, q := opened(t, Config{}), opened(t, Config{})
	a, b, c := take(t, p, sandbox.NetworkRequest{}), take(t, p, sandbox.NetworkRequest{Exclusive: true}), take(t, q, sandbox.NetworkRequest{})
	server := listen(t, a.Path(), "0.0.0.0")
	address := addressOf(t, a)
	to := &net.TCPAddr{IP: net.ParseIP(address), Port: server.(*net.TCPAddr).Port}
	if got, err := call(a.Path(), to, busy); got != address || err != nil {
		t.Fatalf("from itself: %q, %v", got, err)
	}
	want := func(from, ns string) {
		t.Helper()
		if got, err := call(ns, to, silent); err == nil {
			t.Errorf("reached from %s, as %s", from, got)
		}
	}
	want("the bridge", b.Path())
	in(t, b.Path(), fmt.Sprintf("ip route add %s/32 via %s", address, p.ports.addresses.gateway))
	in(t, a.Path(), fmt.Sprintf("ip route add %s/32 via %s", addressOf(t, b), p.ports.addresses.gateway))
	want("the bridge by way of the host", b.Path())
	want("another bridge", c.Path())
	route := fmt.Sprintf("%s via %s", p.ports.addresses.subnet, hostAddress)
	in(t, world, "ip route add "+route)
	want("outside", world)
	in(t, world, "ip route del "+route)
}

// TestLoopbackOfTheHost: it isn't reached, even by a process that can do everything in
// its network, on a host whose interfaces take packets for 127.0.0.1.
func TestLoopbackOfTheHost(t *testing.T) {
	t.Parallel()
	p := opened(t, Config{})
	server := listen(t, here, "127.0.0.1")
	ns := take(t, p, sandbox.NetworkRequest{Exclusive: true})
	if got, err := call(ns.Path(), server, silent); err == nil {
		t.Errorf("got %q", got)
	}
	in(t, ns.Path(), "sysctl -qw net.ipv4.conf.all.route_localnet=1")
	in(t, ns.Path(), "ip addr del 127.0.0.1/8 dev lo")
	in(t, ns.Path(), fmt.Sprintf("ip route add 127.0.0.0/8 via %s src %s", p.ports.addresses.gateway, addressOf(t, ns)))
	if got, err := call(ns.Path(), server, silent); err == nil {
		t.Errorf("with routes of its own: got %q", got)
	}
}

func TestPool(t *testing.T) {
	t.Parallel()
	p := opened(t, Config{Name: "pool0"})
	a := take(t, p, sandbox.NetworkRequest{})
	a.Close()
	b := take(t, p, sandbox.NetworkRequest{Hostname: "me;or=you"})
	if a.Path() != b.Path() {
		t.Error("a network was not used again")
	}
	b.Close()
	changed := take(t, p, sandbox.NetworkRequest{Exclusive: true})
	if changed.Path() == b.Path() {
		t.Error("one that others will have was given to a process that can change it")
	}
	address := addressOf(t, changed) // paths are used again
	in(t, changed.Path(), "ip link del eth0")
	changed.Close()
	var last sandbox.NetworkNamespace
	for range 3 {
		if last = take(t, p, sandbox.NetworkRequest{}); addressOf(t, last) == address {
			t.Error("a network that a process could change was used again")
		}
	}
	closeAndCheck(t, p)
	if links := in(t, last.Path(), "ip -o link"); strings.Contains(links, inside) {
		t.Errorf("a network in use is still connected: %s", links)
	}
	last.Close()
	if netns.Is(last.Path()) {
		t.Error("a network that was given back is still there")
	}
}

// TestKilled: of a process that was killed only the bridge is left, until another one
// begins.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, next := range []string{"another provider", "another mode"} {
		const name = "killed0"
		cmd := exec.Command("/proc/self/exe", name)
		cmd.Env = append(os.Environ(), role+"=killed")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said, err := bufio.NewReader(out).ReadString('\n')
		if said != "ready\n" || err != nil || !hasTable(t, name) {
			t.Fatalf("it has no table: %q, %v", said, err)
		}
		ports := shell(t, "ip -o link show master "+name)
		if strings.Count(ports, "veth") != 3 {
			t.Errorf("ports:\n%s", ports)
		}
		if err := Sweep(t.Context()); err != nil || !hasTable(t, name) {
			t.Errorf("one that lives was disturbed: %v", err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		// Providers of other tests may be removing it.
		for deadline := time.Now().Add(10 * time.Second); hasTable(t, name); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("its table has outlived it")
			}
		}
		if next == "another provider" {
			opened(t, Config{}).Close()
		} else if err := Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		wantNothing(t, name)
		if all := shell(t, "ip -o link"); strings.Contains(all, strings.Fields(ports)[1]) {
			t.Errorf("%s: %s", next, all)
		}
	}
}

// TestTwoAtOnce: providers don't disturb each other.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	server := listen(t, world, worldAddress)
	p, q := opened(t, Config{}), opened(t, Config{})
	if p.table.name == q.table.name || overlaps(p.ports.addresses.subnet, []destination{{to: q.ports.addresses.subnet}}) {
		t.Fatalf("%s %s, %s %s", p.table.name, p.ports.addresses.subnet, q.table.name, q.ports.addresses.subnet)
	}
	ns := take(t, q, sandbox.NetworkRequest{})
	for want, cfg := range map[string]Config{
		"the name is taken":                       {Name: p.table.name},
		"network interface " + p.table.name:       {Subnet: p.ports.addresses.subnet.String()},
		"network interface used has 10.12.5.0/24": {Subnet: "10.12.0.0/16"},
	} {
		if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	p.Close()
	if got, err := call(ns.Path(), server, busy); got != hostAddress || err != nil {
		t.Errorf("after the other one has closed: %q, %v", got, err)
	}
}

func TestConfigured(t *testing.T) {
	t.Parallel()
	shell(t, "ip link add theirs type bridge")
	t.Cleanup(func() { shell(t, "ip link del theirs") })
	cfg := Config{Name: "mine", Subnet: "10.12.77.9/24", Ready: 2}
	p := opened(t, cfg)
	ns := take(t, p, sandbox.NetworkRequest{})
	if got := addressOf(t, ns); !strings.HasPrefix(got, "10.12.77.") {
		t.Errorf("address %s", got)
	}
	ns.Close()
	closeAndCheck(t, p)
	for want, cfg := range map[string]Config{
		"theirs: the name is taken":    {Name: "theirs"},
		"can't be the name":            {Name: "../x"},
		`subnet "10.0.0.0"`:            {Subnet: "10.0.0.0"},
		`subnet "10.0.0.0/30": it is`:  {Subnet: "10.0.0.0/30"},
		`subnet "fd00::/64": it is no`: {Subnet: "fd00::/64"},
	} {
		if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	shell(t, "ip link show theirs") // is still there
}

// TestPowerless: who may not make a bridge is told so.
func TestPowerless(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"=powerless")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "nftables of the kernel") || !strings.Contains(string(out), unix.EPERM.Error()) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestMany: a hundred networks at once, of two providers, leave nothing.
func TestMany(t *testing.T) {
	t.Parallel()
	ps := []*Provider{opened(t, Config{Name: "many0", Ready: 3}), opened(t, Config{Name: "many1"})}
	server := listen(t, world, worldAddress)
	var mu sync.Mutex
	seen := map[string]bool{}
	var all []sandbox.NetworkNamespace
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			ns, err := ps[i%2].New(t.Context(), sandbox.NetworkRequest{Exclusive: i%3 == 0})
			if err != nil {
				t.Error(err)
				return
			}
			_, err = call(ns.Path(), server, busy)
			address := addressOf(t, ns)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[address] {
				t.Errorf("%s: taken %t, %v", address, seen[address], err)
			}
			seen[address] = true
			all = append(all, ns)
		})
	}
	wg.Wait()
	for _, ns := range all {
		wg.Go(func() { ns.Close() })
	}
	wg.Wait()
	for _, p := range ps {
		closeAndCheck(t, p)
		if n := len(p.ports.addresses.taken); n > 0 {
			t.Errorf("%d addresses are taken", n)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	a := newAddresses(netip.MustParsePrefix("10.0.0.8/29"))
	var got []string
	for i := range 5 {
		addr, err := a.take(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, addr.String())
	}
	if want := "10.0.0.10 10.0.0.11 10.0.0.12 10.0.0.13 10.0.0.14"; strings.Join(got, " ") != want || a.gateway.String() != "10.0.0.9" {
		t.Errorf("got %v, gateway %s", got, a.gateway)
	}
	if addr, err := a.take("x"); err == nil {
		t.Errorf("one more: %s", addr)
	}
	a.give("2")
	a.give("0")
	a.give("nobody")
	for _, want := range []string{"10.0.0.10", "10.0.0.12"} {
		if addr, err := a.take("last"); err != nil || addr.String() != want {
			t.Errorf("got %s, %v, want %s", addr, err, want)
		}
	}
	a.give("last")
	a.take("z")
	a.take("last one")
	a.give("last one")
	if addr, err := a.take("again"); err != nil || addr.String() != "10.0.0.12" {
		t.Errorf("the only one that is free is the last: got %s, %v", addr, err)
	}
}
