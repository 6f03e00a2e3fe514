package testbed

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Containerd is a containerd with a root of its own.
type Containerd struct {
	*Server
	Socket string // path
	Root   string
	config string // path
}

// StartContainerd starts containerd without what serves Kubernetes.
func StartContainerd(t testing.TB) *Containerd {
	t.Helper()
	return StartContainerdIn(t, Dir(t), `disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]`)
}

// StartContainerdIn starts containerd in a folder, with more lines of its
// configuration, of which the first ones may be without a section.
func StartContainerdIn(t testing.TB, dir, more string) *Containerd {
	t.Helper()
	c := &Containerd{Socket: filepath.Join(dir, "containerd.sock"), Root: filepath.Join(dir, "root")}
	c.config = filepath.Join(dir, "config.toml")
	text := fmt.Sprintf(`version = 3
root = %q
state = %q
%s
[grpc]
address = %q
[debug]
level = "warn"
`, c.Root, filepath.Join(dir, "state"), more, c.Socket)
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start(t)
	t.Cleanup(func() { c.stopNow(t) }) // whichever process it is by then
	return c
}

func (c *Containerd) start(t testing.TB) {
	t.Helper()
	var err error
	c.Server, err = serve(exec.Command("containerd", "--config", c.config), filepath.Join(filepath.Dir(c.config), "containerd.log"),
		func() error { return c.Ctr("version").Run() })
	if err != nil {
		t.Fatal(err)
	}
}

// Restart kills containerd and starts it on the same root.
func (c *Containerd) Restart(t testing.TB) {
	t.Helper()
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	c.start(t)
}

// Ctr is a command of containerd's client, in the namespace "default" unless
// the arguments say otherwise.
func (c *Containerd) Ctr(args ...string) *exec.Cmd {
	return exec.Command("ctr", append([]string{"--address", c.Socket, "--connect-timeout", "5s"}, args...)...)
}

// Run is the command that runs a container of an image to its end. Its name is
// one that no other containerd of this machine has, since they share the
// runtime's folder.
func (c *Containerd) Run(image string, args ...string) *exec.Cmd {
	return c.Ctr(append([]string{"run", "--rm", image, "kiln-" + strings.ToLower(rand.Text())}, args...)...)
}
