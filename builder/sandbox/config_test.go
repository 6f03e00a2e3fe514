package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
)

func TestBadConfig(t *testing.T) {
	t.Parallel()
	runtime := sandboxtest.RuntimeBinary(t)
	_, errEnforce := os.Stat("/sys/fs/selinux/enforce")
	_, errAppArmor := os.Stat("/sys/kernel/security/apparmor")
	for name, cfg := range map[string]sandbox.Config{
		"no state directory": {Binary: runtime},
		"name server":        {Binary: runtime, StateDir: t.TempDir(), DNS: sandbox.DNS{Nameservers: []string{"x"}}},
		"cgroup":             {Binary: runtime, StateDir: t.TempDir(), CgroupParent: "../x"},
		"state directory":    {Binary: runtime, StateDir: filepath.Join(runtime, "x")},
		"absent init":        {Binary: runtime, StateDir: t.TempDir(), Init: "/no-such-init"},
	} {
		if _, err := sandbox.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, c := range map[string]struct {
		cfg    sandbox.Config
		absent bool
	}{
		"SELinux":  {sandbox.Config{Binary: runtime, StateDir: t.TempDir(), SELinux: true}, errEnforce != nil},
		"AppArmor": {sandbox.Config{Binary: runtime, StateDir: t.TempDir(), AppArmorProfile: "x"}, errAppArmor != nil},
	} {
		if _, err := sandbox.New(c.cfg); (err != nil) != c.absent || err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("%s, absent %v: error %v", name, c.absent, err)
		}
	}
	_, err := sandbox.New(sandbox.Config{Binary: "no-such-runtime", StateDir: t.TempDir()})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "no-such-runtime") {
		t.Errorf("error %v", err)
	}
}

// TestBrokenRuntime has programs in the runtime's place that are none.
func TestBrokenRuntime(t *testing.T) {
	t.Parallel()
	for _, binary := range []string{"/bin/true", "/bin/false", "/bin/cat"} {
		r, _ := newLocal(t, func(c *sandbox.Config) { c.Binary = binary })
		s := sandbox.Spec{ID: "broken", Root: sandboxtest.NewRoot(t), Args: []string{"/bin/true"}}
		var start *sandbox.StartError
		if _, err := collect(t.Context(), r, s); !errors.As(err, &start) {
			t.Errorf("%s: %v", binary, err)
		}
	}
}

// namespaces gives network namespaces made with ip(8).
type namespaces struct {
	t     *testing.T
	name  string
	taken []sandbox.NetworkRequest
	open  int
	fail  error
}

func (n *namespaces) New(_ context.Context, req sandbox.NetworkRequest) (sandbox.NetworkNamespace, error) {
	if n.fail != nil {
		return nil, n.fail
	}
	n.taken = append(n.taken, req)
	n.open++
	return namespace{n}, nil
}

type namespace struct{ of *namespaces }

func (n namespace) Path() string { return "/run/netns/" + n.of.name }

func (n namespace) Close() error {
	n.of.open--
	return nil
}

func TestNetworkProvider(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("sandbox-test-%d", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("make a network namespace: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() }) //nolint:errcheck // nothing to do about it
	const mark = "10.98.76.54"
	if out, err := exec.Command("ip", "-n", name, "addr", "add", mark+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("add an address: %v: %s", err, out)
	}
	nets := &namespaces{t: t, name: name}
	r, _ := newLocal(t, func(c *sandbox.Config) { c.Network = nets })
	s := sandbox.Spec{ID: "net", Root: sandboxtest.NewRoot(t), Hostname: "me", Args: []string{"/bin/ip", "-o", "addr"}}
	for _, c := range []struct {
		mode sandbox.Network
		mark bool
	}{{sandbox.NetworkDefault, true}, {sandbox.NetworkHost, false}, {sandbox.NetworkNone, false}} {
		s.Network = c.mode
		got, err := collect(t.Context(), r, s)
		if err != nil || strings.Contains(got, mark) != c.mark {
			t.Errorf("network %v: error %v, addresses:\n%s", c.mode, err, got)
		}
	}
	s.Network, s.Args, s.Hostname, s.Security = sandbox.NetworkDefault, []string{"/nothing"}, "", sandbox.Insecure
	collect(t.Context(), r, s) //nolint:errcheck // it fails on purpose
	want := []sandbox.NetworkRequest{{Hostname: "me"}, {Exclusive: true}}
	if !slices.Equal(nets.taken, want) || nets.open != 0 {
		t.Errorf("taken for %v, want %v; %d not given back", nets.taken, want, nets.open)
	}
	nets.fail = errors.New("none left")
	if _, err := collect(t.Context(), r, s); !errors.Is(err, nets.fail) {
		t.Errorf("error %v", err)
	}
}
