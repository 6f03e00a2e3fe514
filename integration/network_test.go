package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestBridgeAfterAKill kills a daemon whose steps are on its bridge, and starts and
// stops another one on its root: no process, interface or rule is left. The
// daemons are in a network namespace of their own, which outlives them, with a firewall
// that drops what it doesn't know.
func TestBridgeAfterAKill(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("kt%d", os.Getpid())
	b := &bed{T: t}
	b.run(exec.Command("ip", "netns", "add", name))
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() }) //nolint:errcheck // reported by the next one
	within := func(args ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"--net=/run/netns/" + name}, args...)...)
	}
	b.run(within("ip", "link", "set", "lo", "up"))
	b.run(within("iptables", "-P", "FORWARD", "DROP"))

	dir := testbed.Dir(t)
	b.daemon = &testbed.Daemon{Program: "nsenter", Dir: dir, Root: filepath.Join(dir, "root"), Addr: "unix://" + filepath.Join(dir, "kilnd.sock")}
	b.daemon.Args = []string{
		"--net=/run/netns/" + name, "kilnd", "--root", b.daemon.Root, "--addr", b.daemon.Addr, "--backend", "embedded",
		"--network", "bridge", "--bridge-name", name, "--bridge-subnet", "10.97.0.0/16",
	}
	b.daemon.Start(t)
	files := b.files(`
-- Dockerfile --
FROM scratch AS base
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]
FROM base AS one
RUN busybox ip -o -4 addr; echo started; busybox sleep 1000
FROM base AS two
RUN busybox sleep 1001
FROM base
COPY --from=one / /one
COPY --from=two / /two
`)
	program, err := exec.LookPath("busybox")
	b.must(err)
	data, err := os.ReadFile(program)
	b.must(err)
	b.must(os.WriteFile(filepath.Join(files, "busybox"), data, 0o755))

	client := b.daemon.Client("buildctl", "build", "--frontend=dockerfile.v0", "--local=context="+files, "--local=dockerfile="+files, "--progress=plain")
	var shown bytes.Buffer
	client.Stderr = &shown
	b.must(client.Start())
	b.must(testbed.Eventually(20*time.Second, func() error {
		ports, err := within("ip", "-o", "link", "show", "master", name).Output()
		if err != nil || bytes.Count(ports, []byte("veth")) < 2 {
			return errors.Join(fmt.Errorf("interfaces %s", ports), err)
		}
		left, err := testbed.Processes(b.daemon.Root)
		if err != nil || !strings.Contains(fmt.Sprint(left), "sleep 1000") || !strings.Contains(fmt.Sprint(left), "sleep 1001") {
			return errors.Join(fmt.Errorf("processes %v", left), err)
		}
		return nil
	}))
	if rules := b.run(within("iptables-save")).stdout; !strings.Contains(rules, name) {
		t.Errorf("no rules to be left:\n%s", rules)
	}
	b.must(b.daemon.Kill())
	// The namespaces go with their processes, and take the interfaces with them.
	b.must(testbed.Eventually(20*time.Second, func() error {
		left, err := within("ip", "-o", "link").Output()
		if err != nil || bytes.Contains(left, []byte("veth")) {
			return errors.Join(fmt.Errorf("interfaces %s", left), err)
		}
		return nil
	}))
	client.Wait() //nolint:errcheck // it has lost its daemon
	if !strings.Contains(shown.String(), "10.97.") {
		t.Errorf("the step has no address on the bridge:\n%s", &shown)
	}

	b.daemon.Start(t)
	b.must(b.daemon.Stop())
	left, err := testbed.Processes(b.daemon.Root)
	if err != nil || len(left) > 0 {
		t.Errorf("processes: %v, %v", left, err)
	}
	for what, cmd := range map[string]*exec.Cmd{"rules": within("iptables-save"), "interfaces": within("ip", "-o", "addr")} {
		if got := b.run(cmd).stdout; strings.Contains(got, "10.97.") || strings.Contains(got, "veth") || strings.Contains(got, name) {
			t.Errorf("%s:\n%s", what, got)
		}
	}
	if mounts, err := testbed.Mounts(dir); err != nil || len(mounts) > 0 {
		t.Errorf("mounts: %v, %v", mounts, err)
	}
}
