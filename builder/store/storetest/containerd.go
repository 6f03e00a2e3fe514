// Package storetest holds what every backend of a store must do, as tests, and
// starts a real containerd for those that need one.
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/snapshotter"
)

// Containerd runs a containerd of its own until the test ends, and returns its
// socket's path.
func Containerd(t testing.TB) (address string) {
	t.Helper()
	return run(t, "containerd", 3, "")
}

// OldContainerd is Containerd with the oldest release that works, 1.7.
func OldContainerd(t testing.TB) (address string) {
	t.Helper()
	return run(t, filepath.Join("containerd-1.7", "containerd"), 2, "")
}

// ContainerdOnKiln is Containerd with kiln's snapshotter as "kiln", which is served
// until the test ends.
func ContainerdOnKiln(t testing.TB) (address string, sn *snapshotter.Snapshotter) {
	t.Helper()
	sn, err := snapshotter.Open(context.Background(), snapshotter.Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := snapshotter.NewServer(sn)
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(func() {
		server.Stop()
		if err := sn.Close(); err != nil {
			t.Error(err)
		}
	})
	return run(t, "containerd", 3, fmt.Sprintf("[proxy_plugins.kiln]\ntype = \"snapshot\"\naddress = %q\ncapabilities = [\"rebase\"]\n", socket)), sn
}

// run takes a program's name, the version of its configuration, and more of that.
func run(t testing.TB, program string, version int, more string) (address string) {
	t.Helper()
	root := t.TempDir()
	address = filepath.Join(root, "containerd.sock")
	config := filepath.Join(root, "config.toml")
	text := fmt.Sprintf("version = %d\nroot = %q\nstate = %q\n"+
		"disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\"]\n"+
		"[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		version, filepath.Join(root, "root"), filepath.Join(root, "state"), address, address+".ttrpc") + more
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(binary(t, program), "--config", config)
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
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", address)
		if err == nil {
			conn.Close()
			return address
		}
		select {
		case <-ended:
			t.Fatalf("containerd has ended: %s", out.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("containerd doesn't listen: %v", err)
		}
	}
}

// binary returns the path of a program, from the PATH or from bin/tools of the
// module.
func binary(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
			continue
		}
		if path, err := exec.LookPath(filepath.Join(dir, "bin", "tools", name)); err == nil {
			return path
		}
	}
	t.Fatalf("no %s on the PATH nor in bin/tools: run 'make tools'", name)
	return ""
}
