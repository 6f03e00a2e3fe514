package sandbox_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
)

// daemonEnv makes this test binary a daemon that runs one process and exits.
const daemonEnv = "SANDBOX_TEST_DAEMON"

// daemon is what it runs and how.
type daemon struct {
	Config sandbox.Config
	Spec   sandbox.Spec
}

func TestMain(m *testing.M) {
	text := os.Getenv(daemonEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	var d daemon
	err := json.Unmarshal([]byte(text), &d)
	if err == nil {
		err = d.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run reports the start and what is wrong on its own output, between the process' lines.
func (d daemon) run() error {
	r, err := sandbox.New(d.Config)
	if err != nil {
		return err
	}
	return r.Run(context.Background(), d.Spec, sandbox.IO{Stdout: os.Stdout, Stderr: os.Stderr}, func() { fmt.Println("started") })
}

func (d daemon) command(t *testing.T) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{daemonEnv + "=" + string(text)}
	return cmd
}

// TestRootless runs a daemon in a user namespace with a range of ids, as rootlesskit
// makes one.
func TestRootless(t *testing.T) {
	t.Parallel()
	for _, hostPID := range []bool{false, true} {
		t.Run(fmt.Sprintf("HostPID %v", hostPID), func(t *testing.T) {
			t.Parallel()
			_, cfg := newLocal(t, nil)
			cfg.Rootless, cfg.HostPID = true, hostPID
			root := sandboxtest.NewRoot(t)
			for i, security := range []sandbox.Security{sandbox.Sandboxed, sandbox.Insecure} {
				script := "id -u; stat -c %u:%g /work; cat /proc/self/uid_map; touch /made; ls -d /proc/$$; grep -c /sys /proc/mounts; true"
				s := sandbox.Spec{
					ID: fmt.Sprintf("rootless-%t-%d", hostPID, i), Root: root, Args: []string{"/bin/sh", "-c", script},
					Env: []string{"PATH=/bin"}, Cwd: "/work", User: "7:8", Security: security, Network: sandbox.NetworkNone,
					Mounts: []sandbox.Mount{{Type: "bind", Source: t.TempDir(), Target: "/data"}},
				}
				if err := os.Chmod(root, 0o777); err != nil {
					t.Fatal(err)
				}
				out, err := inUserNamespace(daemon{cfg, s}.command(t))
				out = strings.Replace(out, "started\n", "", 1)
				if err != nil || !strings.Contains(out, "7\n7:8\n") || !strings.Contains(out, " 65536") {
					t.Errorf("%v: error %v, output:\n%s", security, err, out)
				}
			}
		})
	}
}

// hostIDs is where the ids of the user namespace begin on the host: at 0, as the test's
// directories are root's.
const hostIDs = 0

func inUserNamespace(cmd *exec.Cmd) (string, error) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: hostIDs, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
