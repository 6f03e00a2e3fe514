package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

func TestMain(m *testing.M) {
	if err := testbed.UsePrograms(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// bed is a daemon, and the containerd that it stands on.
type bed struct {
	testing.TB
	daemon     *testbed.Daemon
	containerd *testbed.Containerd // nil: its own
}

// embedded starts a daemon that needs nothing else.
func embedded(t testing.TB, args ...string) *bed {
	t.Helper()
	return &bed{t, testbed.StartDaemon(t, append([]string{"--backend", "embedded"}, args...)...), nil}
}

// onHost starts a containerd and a daemon in its namespace default.
func onHost(t testing.TB, args ...string) *bed {
	t.Helper()
	c := testbed.StartContainerd(t)
	return &bed{t, testbed.StartDaemon(t, append([]string{"--backend", "host", "--containerd-address", c.Socket}, args...)...), c}
}

// onBoth runs a test with either backend.
func onBoth(t *testing.T, test func(b *bed)) {
	t.Helper()
	for name, start := range map[string]func(testing.TB, ...string) *bed{"embedded": embedded, "host": onHost} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(start(t))
		})
	}
}

// must ends the test if there is an error.
func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// context makes a folder with busybox and a Dockerfile that begins with it, in
// which each RUN is a command of its shell.
func (b *bed) context(text string) (dir string) {
	b.Helper()
	dir = b.TempDir()
	path, err := exec.LookPath("busybox")
	b.must(err)
	program, err := os.ReadFile(path)
	b.must(err)
	b.must(os.WriteFile(filepath.Join(dir, "busybox"), program, 0o755))
	b.dockerfile(dir, text)
	return dir
}

// dockerfile writes the Dockerfile of a folder made by context.
func (b *bed) dockerfile(dir, text string) {
	b.Helper()
	const start = "FROM scratch AS base\nCOPY busybox /bin/\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n" +
		"ENV PATH=/bin\nRUN /bin/busybox --install -s /bin\n"
	b.must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(start+text), 0o644))
}

// build runs kiln build and returns what it says.
func (b *bed) build(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := b.daemon.Client("kiln", append([]string{"build"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// mustBuild is a build that succeeds.
func (b *bed) mustBuild(args ...string) {
	b.Helper()
	if out, err := b.build(args...); err != nil {
		b.Fatalf("kiln build %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// kiln runs kiln, which has to succeed.
func (b *bed) kiln(args ...string) string {
	b.Helper()
	out, err := b.daemon.Client("kiln", args...).CombinedOutput()
	if err != nil {
		b.Fatalf("kiln %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// usage is a line of kiln du.
type usage struct {
	ID            string
	InUse, Shared bool
	Size          int64
	Description   string
	RecordType    string
	Parents       []string
	CreatedAt     time.Time
}

func (b *bed) du(args ...string) (all []usage) {
	b.Helper()
	b.must(json.Unmarshal([]byte(b.kiln(append([]string{"du", "--format", "json"}, args...)...)), &all))
	return all
}

// records are the lines of du that aren't the system's.
func (b *bed) records() []usage {
	b.Helper()
	return slices.DeleteFunc(b.du(), func(u usage) bool { return u.RecordType == "system" })
}

func total(all []usage) (sum int64) {
	for _, u := range all {
		sum += u.Size
	}
	return sum
}

// settled waits until nothing is mounted, running or in use.
func (b *bed) settled() {
	b.Helper()
	b.must(testbed.Eventually(20*time.Second, func() error {
		mounts, err := testbed.Mounts(b.daemon.Root)
		if len(mounts) > 0 {
			err = errors.Join(err, fmt.Errorf("mounted: %v", mounts))
		}
		found, perr := testbed.Processes(b.daemon.Dir)
		for _, p := range found {
			if !strings.Contains(p, "--root "+b.daemon.Root) {
				err = errors.Join(err, fmt.Errorf("running: %s", p))
			}
		}
		return errors.Join(err, perr)
	}))
	for _, u := range b.records() {
		if u.InUse {
			b.Errorf("in use: %+v", u)
		}
	}
}

// clean prunes all and checks that nothing is left: no record, no lease, no
// snapshot, no blob that no image needs, no temporary file.
func (b *bed) clean() {
	b.Helper()
	b.settled()
	b.kiln("prune", "--all")
	if left := b.records(); len(left) > 0 {
		b.Errorf("left after all is pruned: %+v", left)
	}
	for _, u := range b.du() {
		if u.ID == "unreferenced" || strings.HasPrefix(u.ID, "lease ") {
			b.Errorf("left after all is pruned: %+v", u)
		}
	}
	for _, dir := range []string{"run", "sandbox/runs", "layers/mounts", "containerd/content/ingest"} {
		left, err := os.ReadDir(filepath.Join(b.daemon.Root, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			b.Error(err)
		}
		for _, e := range left {
			b.Errorf("left: %s/%s", dir, e.Name())
		}
	}
}
