package testbed

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Daemon is a kilnd with a root and a socket of its own.
type Daemon struct {
	*Server
	Program string   // kilnd, or a link to it that is called otherwise
	Args    []string // all flags
	Env     []string // more of its environment
	Dir     string   // holds root, socket and log
	Root    string
	Addr    string // unix://…
}

// StartDaemon starts kilnd with further flags, among them the backend.
func StartDaemon(t testing.TB, args ...string) *Daemon {
	t.Helper()
	return StartDaemonIn(t, Dir(t), args...)
}

// StartDaemonIn is StartDaemon in a folder that may hold the root of an earlier
// daemon.
func StartDaemonIn(t testing.TB, dir string, args ...string) *Daemon {
	t.Helper()
	d := NewDaemon(dir, args...)
	d.Start(t)
	return d
}

// NewDaemon is the daemon of StartDaemonIn before it is started.
func NewDaemon(dir string, args ...string) *Daemon {
	d := &Daemon{Program: "kilnd", Dir: dir, Root: filepath.Join(dir, "root"), Addr: "unix://" + filepath.Join(dir, "kilnd.sock")}
	d.Args = append([]string{"--root", d.Root, "--addr", d.Addr, "--log-level", "debug"}, args...)
	return d
}

// Start starts the daemon, for the first time or again after it was stopped or
// killed.
func (d *Daemon) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(d.Program, d.Args...)
	cmd.Env = append(os.Environ(), d.Env...)
	var err error
	d.Server, err = serve(cmd, filepath.Join(d.Dir, "kilnd.log"), func() error { return Answers(d.Addr) })
	if err != nil {
		t.Fatal(err)
	}
	d.stopAfter(t)
}

// Client is a command of a program that takes the daemon's address as --addr:
// kiln or buildctl.
func (d *Daemon) Client(program string, args ...string) *exec.Cmd {
	return exec.Command(program, append([]string{"--addr", d.Addr}, args...)...)
}

// Answers connects to a unix:// address.
func Answers(addr string) error {
	conn, err := net.Dial("unix", strings.TrimPrefix(addr, "unix://"))
	if err != nil {
		return err
	}
	return conn.Close()
}
