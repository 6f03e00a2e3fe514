package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// called makes a link to a program under another name.
func called(t *testing.T, program, name string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	if path, err = filepath.Abs(path); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// TestNerdctl calls buildctl as nerdctl does: first it looks for the worker,
// then it builds into containerd where daemon and nerdctl have the same one, and
// loads an archive from standard output where they have not. That has to work
// with BuildKit's buildctl and with kiln in its place.
func TestNerdctl(t *testing.T) {
	t.Parallel()
	for name, buildctl := range map[string]string{"buildctl": "buildctl", "kiln as buildctl": called(t, "kiln", "buildctl")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBoth(t, func(b *bed) {
				dir := b.files(reproducible)
				command := func(args ...string) *exec.Cmd {
					return exec.Command(buildctl, append([]string{"--addr=" + b.daemon.Addr}, args...)...)
				}
				b.run(command("debug", "workers"))
				shared := b.sharesContainerd(b.run(command("debug", "workers", "--format", "{{json .}}")).stdout)
				output := "type=docker"
				if shared {
					output = "type=image,unpack=true"
				}
				out := b.run(command("build", "--progress=auto", "--frontend=dockerfile.v0", "--local=context="+dir,
					"--output="+output+",name=docker.io/library/made:latest", "--local=dockerfile="+dir, "--opt=filename=Dockerfile"))
				c := b.containerd
				if !shared {
					c = testbed.StartContainerd(b.T)
					load := c.Ctr("images", "import", "-")
					load.Stdin = strings.NewReader(out.stdout)
					b.run(load)
				}
				if ran := b.run(c.Run("docker.io/library/made:latest")); ran.stdout != "apple\npear\n" {
					b.Errorf("it says %q", ran.stdout)
				}
			})
		})
	}
}

// sharesContainerd reads the workers as nerdctl does.
func (b *bed) sharesContainerd(workers string) bool {
	b.Helper()
	var all []struct{ Labels map[string]string }
	if err := json.Unmarshal([]byte(workers), &all); err != nil || len(all) == 0 {
		b.Fatalf("%v in %s", err, workers)
	}
	const prefix = "org.mobyproject.buildkit.worker."
	labels := all[0].Labels
	if labels[prefix+"executor"] != "containerd" {
		return false
	}
	info := b.run(b.containerd.Ctr("info")).stdout
	if uuid := labels[prefix+"containerd.uuid"]; uuid == "" || !strings.Contains(info, uuid) {
		b.Errorf("uuid %q of the worker is not in %s", uuid, info)
	}
	if labels[prefix+"containerd.namespace"] != "default" || labels[prefix+"snapshotter"] != "overlayfs" {
		b.Errorf("labels are %v", labels)
	}
	return true
}

// TestInPlaceOfBuildkitd starts kilnd with buildkitd's name and flags.
func TestInPlaceOfBuildkitd(t *testing.T) {
	t.Parallel()
	dir := testbed.Dir(t)
	config := filepath.Join(dir, "buildkitd.toml")
	text := "[worker.oci]\n  max-parallelism = 2\n[registry.\"example.test\"]\n  mirrors = [\"" + registry.Host + "\"]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &testbed.Daemon{Program: called(t, "kilnd", "buildkitd"), Dir: dir, Root: filepath.Join(dir, "root"), Addr: "unix://" + filepath.Join(dir, "buildkitd.sock")}
	d.Args = []string{"--root", d.Root, "--addr", d.Addr, "--config", config, "--oci-worker=true", "--containerd-worker=false", "--oci-worker-gc=false", "--debug"}
	d.Start(t)
	b := &bed{t, d, nil}
	b.build(b.files(`
-- Dockerfile --
FROM example.test/busybox
RUN true
`))
	b.idle()
}

// TestBuildx uses the daemon as docker buildx does.
func TestBuildx(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	builder := b.buildx()
	if out := b.run(builder("inspect")); !strings.Contains(out.stdout, "running") || !strings.Contains(out.stdout, "linux/amd64") {
		t.Errorf("inspect says\n%s", out.stdout)
	}
	dir := b.files(fourSteps)
	archive := filepath.Join(t.TempDir(), "image.tar")
	b.run(builder("build", "--load", "--tag", "made", "--output=type=docker,dest="+archive, dir))
	c := testbed.StartContainerd(t)
	b.run(c.Ctr("images", "import", archive))
	if out := b.run(builder("du")); !strings.Contains(out.stdout, "Total:") {
		t.Errorf("du says\n%s", out.stdout)
	}
	if out := b.run(builder("history", "ls")); strings.Count(out.stdout, "Completed") != 1 {
		t.Errorf("history says\n%s", out.stdout)
	}
	if out := b.run(builder("history", "logs")); !strings.Contains(out.stderr+out.stdout, "RUN echo first") {
		t.Errorf("the log says\n%s%s", out.stdout, out.stderr)
	}
	out := b.run(builder("build", "--call=targets", dir))
	if !strings.Contains(out.stdout, "TARGET") {
		t.Errorf("targets are\n%s%s", out.stdout, out.stderr)
	}
	b.run(builder("prune", "--all", "--force"))
	b.idle()
}
