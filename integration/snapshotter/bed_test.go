package snapshotter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/continuity/fs"

	"github.com/kiln-build/kiln/integration/testbed"
)

// registry has the image busybox.
var registry *testbed.Registry

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
	return run(), nil
}

// bed is a containerd with kiln's snapshotter, and the daemon that serves it and
// builds with it.
type bed struct {
	testing.TB
	daemon     *testbed.Daemon
	containerd *testbed.Containerd
	env        []string // of ctr
}

// setup makes the folders; nothing runs yet.
func setup(t testing.TB) (dir, plugin string, flags []string) {
	t.Helper()
	dir = testbed.Dir(t)
	socket := filepath.Join(dir, "snapshotter.sock")
	plugin = noKubernetes + fmt.Sprintf(`[proxy_plugins.kiln]
type = "snapshot"
address = %q
capabilities = ["rebase"]
[proxy_plugins.kiln.exports]
root = %q
enable_remote_snapshot_annotations = "true"
[plugins."io.containerd.transfer.v1.local"]
max_concurrent_unpacks = 4
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/%s"
snapshotter = "kiln"
differ = "walking"
`, socket, filepath.Join(dir, "root", "snapshots"), runtime.GOARCH)
	return dir, plugin, []string{"--backend", "host", "--snapshots", "--snapshots-address", socket, "--snapshotter", "kiln"}
}

const noKubernetes = "disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\"]\n"

// releases runs a test on each release of containerd.
func releases(t *testing.T, test func(*testing.T, testbed.Release)) {
	t.Helper()
	for name, r := range map[string]testbed.Release{"2": testbed.Containerd2, "1.7": testbed.Containerd17} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, r)
		})
	}
}

// start starts both.
func start(t testing.TB) *bed {
	t.Helper()
	return startOn(t, testbed.Containerd2)
}

// startOn starts a containerd of a release, and a daemon with more flags.
func startOn(t testing.TB, release testbed.Release, more ...string) *bed {
	t.Helper()
	dir, plugin, flags := setup(t)
	c := release.StartIn(t, testbed.Dir(t), plugin)
	d := testbed.StartDaemonIn(t, dir, append(append(flags, "--containerd-address", c.Socket), more...)...)
	return &bed{TB: t, daemon: d, containerd: c}
}

// ran is what a program said.
type ran struct{ stdout, stderr string }

func (b *bed) try(cmd *exec.Cmd) (ran, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := ran{stdout.String(), stderr.String()}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, out.stdout, out.stderr)
	}
	return out, err
}

func (b *bed) run(cmd *exec.Cmd) ran {
	b.Helper()
	out, err := b.try(cmd)
	b.must(err)
	return out
}

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bed) ctr(args ...string) string {
	b.Helper()
	return b.run(b.onKiln(b.containerd.Ctr(args...))).stdout
}

func (b *bed) kiln(args ...string) ran {
	b.Helper()
	return b.run(b.daemon.Client("kiln", args...))
}

// build builds a Dockerfile's text and returns what was said. BASE is busybox.
func (b *bed) build(text string, args ...string) string {
	b.Helper()
	return b.run(b.building(text, args...)).stderr
}

func (b *bed) building(text string, args ...string) *exec.Cmd {
	b.Helper()
	dir := b.TempDir()
	text = strings.ReplaceAll(text, "BASE", registry.Host+"/busybox")
	b.must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o600))
	return b.daemon.Client("kiln", append(append([]string{"build"}, args...), dir)...)
}

// container runs an image and returns what it says. Of one in sixty that say
// something ctr shows nothing, on any snapshotter.
func (b *bed) container(image string, args ...string) (said string) {
	b.Helper()
	for tries := 0; said == "" && tries < 3; tries++ {
		said = b.run(b.running(image, args...)).stdout
	}
	return said
}

func (b *bed) running(image string, args ...string) *exec.Cmd {
	return b.onKiln(b.containerd.Run(image, args...))
}

// onKiln lets ctr use the snapshotter.
func (b *bed) onKiln(ctr *exec.Cmd) *exec.Cmd {
	ctr.Env = append(append(os.Environ(), "CONTAINERD_SNAPSHOTTER=kiln"), b.env...)
	return ctr
}

// dirs are the sizes on disk of the snapshotter's directories, by id.
func (b *bed) dirs() map[string]int64 {
	b.Helper()
	sizes := map[string]int64{}
	entries, err := os.ReadDir(filepath.Join(b.daemon.Root, "snapshots", "dirs"))
	b.must(err)
	for _, e := range entries {
		used, err := fs.DiskUsage(context.Background(), filepath.Join(b.daemon.Root, "snapshots", "dirs", e.Name(), "fs"))
		b.must(err)
		sizes[e.Name()] = used.Size
	}
	return sizes
}

func total(sizes map[string]int64) (sum int64) {
	for _, n := range sizes {
		sum += n
	}
	return sum
}

// snapshots is what "ctr snapshots usage -b" says, by name.
func (b *bed) snapshots() map[string]int64 {
	b.Helper()
	sizes := map[string]int64{}
	for i, line := range strings.Split(strings.TrimSpace(b.ctr("snapshots", "usage", "-b")), "\n") {
		var name string
		var size, inodes int64
		if i == 0 {
			continue
		}
		if _, err := fmt.Sscan(line, &name, &size, &inodes); err != nil {
			b.Fatalf("%q: %v", line, err)
		}
		sizes[name] = size
	}
	return sizes
}

// record is a line of kiln du.
type record struct {
	ID         string
	InUse      bool
	Shared     bool
	Size       int64
	RecordType string
}

// du lists all but the daemon's databases.
func (b *bed) du() (all []record) {
	b.Helper()
	b.must(json.Unmarshal([]byte(b.kiln("du", "--format", "json").stdout), &all))
	return slices.DeleteFunc(all, func(r record) bool { return r.ID == "databases" })
}

// settled waits until the daemon has mounted nothing, nothing is in use, and
// containerd has removed what nobody needs.
func (b *bed) settled() {
	b.Helper()
	b.must(testbed.Eventually(20*time.Second, func() error {
		mounts, err := testbed.Mounts(b.daemon.Root)
		mounts = slices.DeleteFunc(mounts, func(m string) bool { // layers that are shown lazily stay, and networks for the next step
			return strings.HasPrefix(m, filepath.Join(b.daemon.Root, "snapshots", "dirs")) || strings.HasPrefix(m, filepath.Join(b.daemon.Root, "bridge"))
		})
		if len(mounts) > 0 {
			err = errors.Join(err, fmt.Errorf("mounted: %v", mounts))
		}
		for _, r := range b.du() {
			if r.InUse {
				err = errors.Join(err, fmt.Errorf("in use: %+v", r))
			}
		}
		return err
	}))
	b.collect()
}

// collect has containerd collect its garbage.
func (b *bed) collect() {
	b.Helper()
	b.ctr("leases", "create", "--id", "collect")
	b.ctr("leases", "rm", "--sync", "collect")
}

// empty removes all images and records, and checks that nothing is left.
func (b *bed) empty() {
	b.Helper()
	for image := range strings.FieldsSeq(b.ctr("images", "ls", "-q")) {
		b.ctr("images", "rm", "--sync", image)
	}
	b.settled()
	b.kiln("prune", "--all")
	b.must(testbed.Eventually(20*time.Second, func() error {
		b.collect()
		names, dirs := b.snapshots(), b.dirs()
		if len(names)+len(dirs) > 0 {
			return fmt.Errorf("left: snapshots %v, directories %v", names, dirs)
		}
		return nil
	}))
	if left := b.ctr("content", "ls", "-q"); left != "" {
		b.Errorf("left: blobs %s", left)
	}
	for line := range strings.Lines(b.ctr("leases", "ls", "-q")) {
		if !strings.HasPrefix(line, "kiln-mounts-") {
			b.Errorf("left: lease %s", line)
		}
	}
}

// blobs is what the blobs take on disk.
func (b *bed) blobs() (sum int64) {
	b.Helper()
	for i, line := range strings.Split(strings.TrimSpace(b.ctr("content", "ls")), "\n") {
		if i == 0 {
			continue
		}
		used, err := fs.DiskUsage(context.Background(), filepath.Join(b.containerd.Root, "io.containerd.content.v1.content", "blobs", strings.Replace(strings.Fields(line)[0], ":", "/", 1)))
		b.must(err)
		sum += used.Size
	}
	return sum
}
