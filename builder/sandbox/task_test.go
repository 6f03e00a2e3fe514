package sandbox_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
)

const testNamespace = "kiln-test"

// containerd runs a containerd of its own until the test ends, and returns its
// socket's path.
func containerd(tb testing.TB) (address string) {
	tb.Helper()
	tools := filepath.Dir(sandboxtest.RuntimeBinary(tb))
	root := tb.TempDir()
	address = filepath.Join(root, "containerd.sock")
	config := filepath.Join(root, "config.toml")
	text := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\n"+
		"disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\"]\n"+
		"[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		filepath.Join(root, "root"), filepath.Join(root, "state"), address, address+".ttrpc")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(tools, "containerd"), "--config", config)
	cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // containerd ends with the thread that starts it
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		_ = cmd.Wait() // its output tells more
		close(ended)
	}()
	if err := <-started; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if left := processes(tb, address); len(left) > 0 {
			tb.Errorf("shims are left: %v", left)
		}
	})
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", address)
		if err == nil {
			conn.Close()
			return address
		}
		select {
		case <-ended:
			tb.Fatalf("containerd has ended: %s", out.String())
		default:
		}
		if time.Now().After(deadline) {
			tb.Fatalf("containerd doesn't listen: %v", err)
		}
	}
}

// byShim is the configuration of a runner that has containerd run processes.
func byShim(tb testing.TB) func(*sandbox.Config) {
	tb.Helper()
	address := containerd(tb)
	return func(c *sandbox.Config) {
		c.Shim = &sandbox.Shim{Address: address, Namespace: testNamespace, Runtime: "io.containerd.runc.v2"}
		c.Binary = "/bin/false"
	}
}

func TestTasks(t *testing.T) {
	r, cfg := newLocal(t, byShim(t))
	t.Cleanup(func() { checkNoContainers(t, cfg) })
	sandboxtest.Run(t, r)
}

func checkNoContainers(t *testing.T, cfg sandbox.Config) {
	t.Helper()
	c, err := client.New(cfg.Shim.Address, client.WithDefaultNamespace(testNamespace))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	left, err := c.Containers(context.WithoutCancel(t.Context()))
	if err != nil || len(left) > 0 {
		t.Errorf("%d containers left, error %v", len(left), err)
	}
}

func TestBadShim(t *testing.T) {
	t.Parallel()
	address := containerd(t)
	for name, c := range map[string]struct{ shim, want string }{
		"no such shim":  {"io.containerd.nosuch.v1", "io.containerd.nosuch.v1"},
		"no containerd": {"io.containerd.runc.v2", "/none.sock"},
	} {
		shim := &sandbox.Shim{Address: address, Namespace: testNamespace, Runtime: c.shim}
		if name == "no containerd" {
			shim.Address = filepath.Join(t.TempDir(), "none.sock")
		}
		_, err := sandbox.New(sandbox.Config{StateDir: t.TempDir(), Shim: shim})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
