package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// asDaemon makes this test binary the daemon.
const asDaemon = "KILND_TEST_AS_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// daemon is a process of its own; name is how it is called.
func daemon(t *testing.T, name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	out := &bytes.Buffer{}
	// The shell knows the process id that is to be in the environment.
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, link}, args...)...)
	cmd.Env = append(os.Environ(), asDaemon+"=1", "PATH="+filepath.Dir(sandboxtest.RuntimeBinary(t))+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

func TestVersionAndHelp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, flag, want string }{
		{"kilnd", "--version", "kilnd github.com/kiln-build/kiln v0.33.1+kiln."},
		{"buildkitd", "--version", "buildkitd github.com/kiln-build/kiln v0.33.1+kiln."},
		{"kilnd", "--help", "--containerd-address"},
		{"buildkitd", "--help", "--oci-worker-labels"},
	} {
		cmd, out := daemon(t, c.name, c.flag)
		if err := cmd.Run(); err != nil || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s %s: error %v, output:\n%s", c.name, c.flag, err, out)
		}
	}
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	cmd, out := daemon(t, "kilnd", "--nonsense")
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "kilnd: unknown flag: --nonsense") {
		t.Errorf("error %v, output:\n%s", err, out)
	}
}

// ask calls the daemon until it answers.
func ask(t *testing.T, socket string) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := controlapi.NewControlClient(conn).Info(ctx, &controlapi.InfoRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Error(err)
	}
}

// end stops the daemon as a service manager does.
func end(t *testing.T, cmd *exec.Cmd, out *bytes.Buffer) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the daemon's end: %v, output:\n%s", err, out)
	}
}

func TestBothNames(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"kilnd":     {"--backend=embedded", "--snapshotter=native"},
		"buildkitd": {"--oci-worker=true", "--containerd-worker=false", "--oci-worker-snapshotter=native", "--config=/nonexistent.toml"},
	} {
		socket := filepath.Join(t.TempDir(), "s")
		cmd, out := daemon(t, name, append(flags, "--root", t.TempDir(), "--addr=unix://"+socket)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ask(t, socket)
		end(t, cmd, out)
		if _, err := os.Stat(socket); !os.IsNotExist(err) {
			t.Errorf("%s left its socket: %v", name, err)
		}
	}
}

func TestSystemd(t *testing.T) {
	t.Parallel()
	socket, notify := filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	passed, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	states, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer states.Close()
	cmd, out := daemon(t, "kilnd", "--backend=embedded", "--snapshotter=native", "--root", t.TempDir(), "--addr=fd://")
	cmd.ExtraFiles = []*os.File{passed}
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "NOTIFY_SOCKET="+notify)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		buf := make([]byte, 100)
		states.SetReadDeadline(time.Now().Add(30 * time.Second))
		n, err := states.Read(buf)
		if err != nil {
			t.Errorf("waiting for a state: %v", err)
		}
		return string(buf[:n])
	}
	if got := state(); got != "READY=1" {
		t.Errorf("state %q", got)
	}
	ask(t, socket)
	end(t, cmd, out)
	if got := state(); got != "STOPPING=1" {
		t.Errorf("state %q", got)
	}
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the passed socket was removed: %v", err)
	}
}
