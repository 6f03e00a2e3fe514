package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/netns"
	"golang.org/x/sys/unix"
)

// role says what a process of this program does, and is empty for the first one.
const role = "KILN_TEST_BRIDGE"

// The outside is another network namespace. The host has an address in it, and its
// default route leads there; nothing leads from there to the networks of processes.
const (
	world        = "/run/world"
	worldAddress = "192.0.2.2"
	hostAddress  = "192.0.2.1"
	worldMTU     = 1400
)

// TestMain runs the tests in network and mount namespaces of their own, on a host
// whose firewall of iptables drops what it doesn't know.
func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(again(exec.Command("/proc/self/exe", os.Args[1:]...)))
	case "killed":
		holdNetworks()
	case "powerless":
		_, err := Open(context.Background(), Config{})
		fmt.Print(err)
		os.Exit(0)
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare namespaces:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func again(cmd *exec.Cmd) int {
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), role+"=tests")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in namespaces of their own:", err)
		return 1
	}
	return 0
}

func furnish() error {
	script := fmt.Sprintf(`set -e
		ip link set lo up
		ip link add outside mtu %[1]d type veth peer name inside mtu %[1]d netns %[2]s
		ip addr add %[3]s/24 dev outside
		ip link set outside up
		nsenter --net=%[2]s ip addr add %[4]s/24 dev inside
		nsenter --net=%[2]s ip link set inside up
		ip route add default via %[4]s
		ip link add used type bridge
		ip addr add 10.12.5.1/24 dev used
		ip link set used up
		iptables -P FORWARD DROP
		iptables -A FORWARD -i nothing -j ACCEPT
		sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=1
		# What goes from port to port isn't the firewall's.
		if test -e /proc/sys/net/bridge/bridge-nf-call-iptables; then sysctl -qw net.bridge.bridge-nf-call-iptables=0; fi`, worldMTU, world, hostAddress, worldAddress)
	err := errors.Join(
		unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", "/run", "tmpfs", 0, ""),
		netns.Make(world),
	)
	if err != nil {
		return err
	}
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// holdNetworks is a process that has networks until it is killed. It says when.
func holdNetworks() {
	p, err := Open(context.Background(), Config{Name: os.Args[1]})
	for range 3 {
		if err == nil {
			_, err = p.New(context.Background(), sandbox.NetworkRequest{})
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	time.Sleep(time.Minute) // or as long as that takes
}

func opened(t *testing.T, cfg Config) *Provider {
	t.Helper()
	p, err := Open(t.Context(), cfg)
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

// closeAndCheck closes a provider and checks that nothing of it is left.
func closeAndCheck(t *testing.T, p *Provider) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	wantNothing(t, p.table.name)
}

func wantNothing(t *testing.T, bridge string) {
	t.Helper()
	if l, err := link(bridge); l != nil || err != nil {
		t.Errorf("the bridge is still there: %v, %v", l, err)
	}
	if hasTable(t, bridge) {
		t.Error("the table is still there")
	}
	if rules := shell(t, "iptables -S"); strings.Contains(rules, bridge+" ") {
		t.Errorf("rules:\n%s", rules)
	}
}

func hasTable(t *testing.T, bridge string) bool {
	t.Helper()
	probe, err := claimTable("", "probe"+bridge)
	if err != nil {
		t.Fatal(err)
	}
	defer probe.release()
	all, err := probe.conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range all {
		if table.Name == "kiln-"+bridge {
			return true
		}
	}
	return false
}

func shell(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// in runs a command in a network and gives its output.
func in(t *testing.T, ns, command string) string {
	t.Helper()
	return shell(t, "nsenter --net="+ns+" "+command)
}

// listen serves TCP in a network, and tells who calls by where they are seen to be.
func listen(t *testing.T, ns, address string) net.Addr {
	t.Helper()
	var l net.Listener
	err := netns.Do(ns, func() (err error) {
		l, err = net.Listen("tcp", address+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprint(c, host)
			c.Close()
		}
	}()
	return l.Addr()
}

const (
	busy   = 20 * time.Second // enough, whatever else the machine does
	silent = time.Second      // for what can't be reached
)

// call dials from a network, and gives the answer.
func call(ns string, to net.Addr, limit time.Duration) (answer string, err error) {
	err = netns.Do(ns, func() error {
		c, err := net.DialTimeout("tcp", to.String(), limit)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(busy))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		answer = string(buf[:n])
		return err
	})
	return answer, err
}
