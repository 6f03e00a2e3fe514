package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// containerd is one that a single daemon uses.
type containerd struct {
	*server
	root   string
	socket string
	plugin string // where kilnd serves its snapshotter
}

// startContainerd starts a containerd that belongs to the daemon with the name.
func startContainerd(ctx context.Context, dir, name string) (*containerd, error) {
	c := &containerd{root: filepath.Join(dir, name+"-root"), socket: filepath.Join(dir, name+"-c.sock"), plugin: filepath.Join(dir, name+"-s.sock")}
	if err := os.MkdirAll(c.root, 0o711); err != nil {
		return nil, err
	}
	config := filepath.Join(c.root, "config.toml")
	text := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
address = %q
[debug]
level = "warn"
[proxy_plugins.kiln]
type = "snapshot"
address = %q
`, filepath.Join(c.root, "root"), filepath.Join(c.root, "state"), c.socket, c.plugin)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	var err error
	if c.server, err = serve(exec.Command("containerd", "--config", config)); err != nil {
		return nil, err
	}
	return c, c.wait(ctx, func() error { return exec.Command("ctr", "--address", c.socket, "version").Run() })
}

// flags are what a daemon has to be told of it.
func (c *containerd) flags(daemon string) []string {
	if daemon == "kilnd" {
		return []string{"--containerd-address", c.socket, "--snapshots-address", c.plugin}
	}
	return []string{"--containerd-worker-addr=" + c.socket}
}

func (c *containerd) remove() error {
	if err := c.stop(); err != nil {
		return err
	}
	return removeRoot(c.root)
}

// removeImages removes all images, and what only they needed.
func (c *containerd) removeImages(ctx context.Context) error {
	list, err := exec.CommandContext(ctx, "ctr", "--address", c.socket, "images", "ls", "-q").Output()
	if err != nil {
		return err
	}
	for image := range strings.FieldsSeq(string(list)) {
		if err := output(ctx, "ctr", "--address", c.socket, "images", "rm", "--sync", image); err != nil {
			return err
		}
	}
	return nil
}

// runImage starts a container of an image and returns when it has said
// something; end waits for its end.
func (d *daemon) runImage(ctx context.Context, image, name string) (end func() error, err error) {
	cmd := exec.CommandContext(ctx, "ctr", "--address", d.containerd.socket, "run", "--rm", "--snapshotter", d.snapshotter, image, name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	said := bufio.NewReader(out)
	if _, err := said.ReadByte(); err != nil {
		return nil, fmt.Errorf("container of %s has said nothing: %w", image, errors.Join(err, cmd.Wait()))
	}
	return func() error {
		if _, err := io.Copy(io.Discard, said); err != nil {
			return err
		}
		return cmd.Wait()
	}, nil
}
