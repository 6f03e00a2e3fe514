package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// registry is shared by all tests. It has two images: busybox, and multi, an
// index of busybox for this machine's platform and another one.
var registry *testbed.Registry

// otherArch is the second architecture of the image multi. Nothing of it runs.
const otherArch = "s390x"

func TestMain(m *testing.M) {
	code, err := withRegistry(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withRegistry(run func() int) (code int, err error) {
	if err := testbed.UsePrograms(); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "kiln-registry-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if registry, err = testbed.StartRegistry(dir); err != nil {
		return 1, err
	}
	defer registry.Stop()
	busybox, err := testbed.Busybox()
	if err != nil {
		return 1, err
	}
	if err := registry.PushImage("busybox:latest", busybox); err != nil {
		return 1, err
	}
	multi, err := testbed.Index(busybox, otherArch)
	if err != nil {
		return 1, err
	}
	if err := registry.PushIndex("multi:latest", multi); err != nil {
		return 1, err
	}
	return run(), nil
}

// bed is what a test builds with.
type bed struct {
	*testing.T
	daemon     *testbed.Daemon
	containerd *testbed.Containerd // nil with the embedded backend
}

// embedded starts a daemon that needs nothing else.
func embedded(t *testing.T) *bed {
	t.Helper()
	return &bed{t, testbed.StartDaemon(t, "--backend", "embedded"), nil}
}

// onHost starts a containerd and a daemon in its namespace default.
func onHost(t *testing.T) *bed {
	t.Helper()
	c := testbed.StartContainerd(t)
	return &bed{t, testbed.StartDaemon(t, "--backend", "host", "--containerd-address", c.Socket), c}
}

// onBoth runs a test with either backend.
func onBoth(t *testing.T, test func(b *bed)) {
	t.Helper()
	for name, start := range map[string]func(*testing.T) *bed{"embedded": embedded, "host": onHost} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(start(t))
		})
	}
}

// with is the same bed for a subtest.
func (b *bed) with(t *testing.T) *bed { return &bed{t, b.daemon, b.containerd} }

// files makes a folder of a text like this, in which BASE stands for the
// busybox image, MULTI for the index and REGISTRY for the registry's host:
//
//	-- Dockerfile --
//	FROM BASE
//	-- folder/file --
//	content
func (b *bed) files(text string) (dir string) {
	b.Helper()
	dir = b.TempDir()
	text = strings.NewReplacer("BASE", registry.Host+"/busybox", "MULTI", registry.Host+"/multi", "REGISTRY", registry.Host).Replace(text)
	name := ""
	content := map[string]string{}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(rest, " --\n") {
			name = strings.TrimSuffix(rest, " --\n")
			content[name] = ""
		} else if name != "" {
			content[name] += line
		}
	}
	for name, text := range content {
		path := filepath.Join(dir, name)
		b.must(os.MkdirAll(filepath.Dir(path), 0o755))
		b.must(os.WriteFile(path, []byte(text), 0o644))
	}
	return dir
}

// output is what a program left.
type output struct {
	stdout, stderr string
	err            error
}

// try runs a program to its end, which may be an error.
func try(cmd *exec.Cmd) output {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return output{stdout.String(), stderr.String(), err}
}

// run runs a program that has to succeed.
func (b *bed) run(cmd *exec.Cmd) output {
	b.Helper()
	out := try(cmd)
	if out.err != nil {
		b.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), out.err, out.stdout, out.stderr)
	}
	return out
}

// kiln runs kiln, which has to succeed.
func (b *bed) kiln(args ...string) output {
	b.Helper()
	return b.run(b.daemon.Client("kiln", args...))
}

// build is kiln build, with its flags and the context.
func (b *bed) build(args ...string) output {
	b.Helper()
	return b.kiln(append([]string{"build"}, args...)...)
}

// must ends the test if there is an error.
func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// tree reads a folder: the contents of its files, by path. Folders end with a
// slash and are there only if they are empty; links lead to "-> target".
func (b *bed) tree(dir string) map[string]string {
	b.Helper()
	found := map[string]string{}
	b.must(filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			inside, err := os.ReadDir(path)
			if len(inside) == 0 {
				found[name+"/"] = ""
			}
			return err
		case entry.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			found[name] = "-> " + target
			return err
		}
		content, err := os.ReadFile(path)
		found[name] = string(content)
		return err
	}))
	return found
}
