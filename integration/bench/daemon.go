package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
)

// kind is one of the daemons that are compared.
type kind struct {
	name string // also the program's
	args []string
}

var kinds = []kind{
	{"buildkitd", []string{
		"--oci-worker=true", "--containerd-worker=false",
		"--oci-worker-snapshotter=overlayfs", "--oci-worker-gc=false",
	}},
	{"kilnd", []string{"--backend", "embedded"}},
}

// daemon is one running build daemon with a root of its own.
type daemon struct {
	kind
	root string
	addr string
	*server
}

// start starts a daemon on a new root below dir and waits until it answers.
func (k kind) start(ctx context.Context, dir string) (*daemon, error) {
	root := filepath.Join(dir, k.name)
	d := &daemon{kind: k, root: root, addr: "unix://" + filepath.Join(dir, k.name+".sock")}
	return d, d.boot(ctx)
}

func (d *daemon) boot(ctx context.Context) error {
	if err := os.MkdirAll(d.root, 0o711); err != nil {
		return err
	}
	var err error
	d.server, err = serve(exec.Command(d.name, append([]string{"--root", d.root, "--addr", d.addr}, d.args...)...))
	if err != nil {
		return err
	}
	return d.wait(ctx, func() error {
		conn, err := net.Dial("unix", d.addr[len("unix://"):])
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// restart stops the daemon and starts it again on its root.
func (d *daemon) restart(ctx context.Context) error {
	if err := d.stop(); err != nil {
		return err
	}
	return d.boot(ctx)
}

// remove stops the daemon and deletes what it kept.
func (d *daemon) remove() error {
	if err := d.stop(); err != nil {
		return err
	}
	if err := removeRoot(d.root); err != nil {
		return fmt.Errorf("%s: %w", d.name, err)
	}
	return nil
}

// buildctl runs the client against the daemon.
func (d *daemon) buildctl(ctx context.Context, args ...string) error {
	return output(ctx, "buildctl", append([]string{"--addr", d.addr}, args...)...)
}

// resetUsage starts a new peak and returns what was used up to now.
func (d *daemon) resetUsage() (usage, error) {
	if err := resetPeak("/proc", d.cmd.Process.Pid); err != nil {
		return usage{}, err
	}
	return d.usage()
}

func (d *daemon) usage() (usage, error) {
	return treeUsage("/proc", d.cmd.Process.Pid)
}
