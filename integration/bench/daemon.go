package main

import (
	"context"
	"errors"
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
	// snapshotter is the one that it uses in a containerd of its own; "" if it
	// has everything in itself.
	snapshotter string
}

var kinds = []kind{
	{"buildkitd", []string{
		"--oci-worker=true", "--containerd-worker=false",
		"--oci-worker-snapshotter=overlayfs", "--oci-worker-gc=false",
	}, ""},
	{"kilnd", []string{"--backend", "embedded"}, ""},
}

// onContainerd are the same two, for what ends in a container.
var onContainerd = []kind{
	{"buildkitd", []string{
		"--oci-worker=false", "--containerd-worker=true", "--containerd-worker-namespace=default",
		"--containerd-worker-snapshotter=overlayfs", "--containerd-worker-gc=false",
	}, "overlayfs"},
	{"kilnd", []string{"--backend", "host", "--snapshots", "--snapshotter", "kiln"}, "kiln"},
}

// daemon is one running build daemon with a root of its own.
type daemon struct {
	kind
	root string
	old  []string // the roots before it
	addr string
	*server
	containerd *containerd // nil: none
}

// start starts a daemon on a new root below dir and waits until it answers.
func (k kind) start(ctx context.Context, dir string) (*daemon, error) {
	name := k.name
	if k.snapshotter != "" {
		name += "-on-containerd"
	}
	d := &daemon{kind: k, root: filepath.Join(dir, name), addr: "unix://" + filepath.Join(dir, name+".sock")}
	if k.snapshotter != "" {
		var err error
		if d.containerd, err = startContainerd(ctx, dir, name); err != nil {
			return nil, err
		}
		d.args = append(d.args[:len(d.args):len(d.args)], d.containerd.flags(k.name)...)
	}
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

// anew stops the daemon and starts it on an empty root. The old one stays: for
// minutes ext4 doesn't reuse the inodes of deleted files, and looks at each of
// them whenever a file is made, so that making many takes several times as long.
func (d *daemon) anew(ctx context.Context) error {
	if err := d.stop(); err != nil {
		return err
	}
	d.old = append(d.old, d.root)
	d.root = fmt.Sprintf("%s-%d", d.old[0], len(d.old))
	return d.boot(ctx)
}

// remove stops the daemon and deletes what it kept.
func (d *daemon) remove() error {
	if d.containerd != nil { // what was pulled lazily is mounted below the root
		ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
		defer cancel()
		if err := errors.Join(d.containerd.removeImages(ctx), d.buildctl(ctx, "prune", "--all")); err != nil {
			return err
		}
	}
	if err := d.stop(); err != nil {
		return err
	}
	for _, root := range append(d.old, d.root) {
		if err := removeRoot(root); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	if d.containerd != nil {
		return d.containerd.remove()
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
