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

// Release is a series of containerd's releases.
type Release struct {
	folder  string // of its programs, below that of all others; "" for none
	version string // how its programs' versions begin
	config  int    // version of its configuration
}

// The releases that kiln has to work with: the one that its libraries are from,
// and the oldest one.
var (
	Containerd2  = Release{version: "v2.", config: 3}
	Containerd17 = Release{folder: "containerd-1.7", version: "v1.7.", config: 2}
)

// Version is how the versions of its programs begin.
func (r Release) Version() string { return r.version }

// program is the name or the path of one of its programs.
func (r Release) program(name string) (string, error) {
	if r.folder == "" {
		return name, nil
	}
	bin, err := binDir()
	return filepath.Join(bin, "tools", r.folder, name), err
}

// Containerd is a containerd with a root of its own.
type Containerd struct {
	*Server
	Socket  string // path
	Root    string
	release Release
	config  string // path
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
	return Containerd2.StartIn(t, dir, more)
}

// StartIn is [StartContainerdIn] with this release.
func (r Release) StartIn(t testing.TB, dir, more string) *Containerd {
	t.Helper()
	c := &Containerd{Socket: filepath.Join(dir, "containerd.sock"), Root: filepath.Join(dir, "root"), release: r}
	c.config = filepath.Join(dir, "config.toml")
	text := fmt.Sprintf(`version = %d
root = %q
state = %q
%s
[grpc]
address = %q
[debug]
level = "warn"
`, r.config, c.Root, filepath.Join(dir, "state"), more, c.Socket)
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start(t)
	t.Cleanup(func() { c.stopNow(t) }) // whichever process it is by then
	return c
}

func (c *Containerd) start(t testing.TB) {
	t.Helper()
	program, err := c.release.program("containerd")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config", c.config)
	if c.release.folder != "" { // where it finds the shim
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+string(filepath.ListSeparator)+os.Getenv("PATH"))
	}
	c.Server, err = serve(cmd, filepath.Join(filepath.Dir(c.config), "containerd.log"),
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
	program, err := c.release.program("ctr")
	if err != nil {
		program = err.Error() // which the command fails with
	}
	return exec.Command(program, append([]string{"--address", c.Socket, "--connect-timeout", "5s"}, args...)...)
}

// Run is the command that runs a container of an image to its end. Its name is
// one that no other containerd of this machine has, since they share the
// runtime's folder.
func (c *Containerd) Run(image string, args ...string) *exec.Cmd {
	return c.Ctr(append([]string{"run", "--rm", image, "kiln-" + strings.ToLower(rand.Text())}, args...)...)
}
