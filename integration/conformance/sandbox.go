package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/integration/conformance/kit"
)

// Tests run in mount and network namespaces of their own: no mount, bridge or
// firewall rule stays behind, and the outside looks the same everywhere. It
// consists of one address, where a name server knows example.com and nothing
// else, and a web server at port 80. There is no route to anywhere else.

// resultsVariable marks the process inside; it holds the file to write to.
const resultsVariable = "KILN_CONFORMANCE_RESULTS"

func inside() bool { return os.Getenv(resultsVariable) != "" }

// scratch is where tests write: a bind mount with a short name, since the path
// of a socket may have no more than 108 bytes.
const scratch = "/mnt"

// enter runs this program again inside new namespaces.
func enter(ctx context.Context, results string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(append(os.Environ(), env...), resultsVariable+"="+results)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Setpgid:    true, // an interrupt comes from here, once
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd.Run()
}

// furnish makes the namespaces that this process was started in the sandbox. It
// returns the children that belong to it.
func furnish(k *kit.Kit) (children []int, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	if err := furnishFiles(k); err != nil {
		return nil, err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return nil, err
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	address, err := netlink.ParseAddr(kit.WebAddress + "/32")
	if err != nil {
		return nil, err
	}
	if err := netlink.AddrAdd(loopback, address); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return nil, err
	}
	names := exec.Command("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		"--bind-interfaces", "--listen-address="+kit.WebAddress, "--local=/#/",
		"--address=/example.com/"+kit.WebAddress, "--pid-file=", "--user=root")
	names.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := names.Start(); err != nil {
		return nil, err
	}
	web, err := net.Listen("tcp", kit.WebAddress+":80")
	if err != nil {
		return nil, err
	}
	go http.Serve(web, http.FileServer(http.Dir(k.Web()))) //nolint:errcheck // it ends with the process
	return []int{names.Process.Pid}, nil
}

// furnishFiles gives the namespace system folders whose changes are forgotten,
// and in them what daemons look for.
func furnishFiles(k *kit.Kit) error {
	changes := k.Scratch("tmpfs")
	if err := os.MkdirAll(changes, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", changes, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", changes, err)
	}
	for _, dir := range []string{"/etc", "/opt", "/run", "/var/lib"} {
		upper, work := filepath.Join(changes, dir, "upper"), filepath.Join(changes, dir, "work")
		for _, d := range []string{upper, work} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
		if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
			return fmt.Errorf("overlay on %s: %w", dir, err)
		}
	}
	resolver, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return err
	}
	if err := os.WriteFile(resolver, []byte("nameserver "+kit.WebAddress+"\n"), 0o644); err != nil {
		return err
	}
	configs, plugins := k.CNI()
	tests := k.Scratch("t")
	for _, b := range []struct{ from, at string }{
		{configs, "/etc/buildkit"}, {plugins, "/opt/cni/bin"}, {tests, scratch},
	} {
		for _, dir := range []string{b.from, b.at} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(b.from, b.at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s on %s: %w", b.from, b.at, err)
		}
	}
	return os.MkdirAll("/run/containers", 0o755)
}

// environment is what the suites get: nothing of the caller's but PATH, after
// a folder where the daemon and the client have the names that they look up.
func environment(k *kit.Kit, o options) ([]string, error) {
	names := filepath.Join(scratch, "bin")
	home := filepath.Join(scratch, "home")
	for _, dir := range []string{names, home} {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	for name, program := range map[string]string{"buildkitd": o.daemon, "buildctl": o.client} {
		if err := os.Symlink(program, filepath.Join(names, name)); err != nil {
			return nil, err
		}
	}
	env := []string{
		"PATH=" + strings.Join([]string{names, k.Bin(), os.Getenv("PATH")}, ":"),
		"HOME=" + home,
		"DOCKER_CONFIG=" + home,
		"BUILDKIT_REGISTRY_MIRROR_DIR=" + k.Mirror(),
		"BUILDKIT_RUN_NETWORK_INTEGRATION_TESTS=1",
		"BUILDKIT_CNI_INIT_LOCK_PATH=/run/buildkit_cni_bridge.lock",
		"BUILDKIT_TEST_SIGN_FIXTURES=" + k.Keys(),
	}
	if update, ok := os.LookupEnv("BUILDKIT_UPDATE_COMPAT_GOLDENS"); ok {
		env = append(env, "BUILDKIT_UPDATE_COMPAT_GOLDENS="+update)
	}
	return append(env, kit.RegistryEnv...), nil
}
