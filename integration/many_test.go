package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestHundredSteps runs a hundred steps at the same time on the daemon's bridge, and
// stops the daemon: there is no process, mount, cgroup, namespace, interface or rule
// that was not there before. All are in a network namespace of their own.
func TestHundredSteps(t *testing.T) {
	t.Parallel()
	const steps, subnet = 100, "10.98."
	name := fmt.Sprintf("kh%d", os.Getpid())
	b := &bed{T: t}
	b.run(exec.Command("ip", "netns", "add", name))
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() }) //nolint:errcheck // reported by the next one
	within := func(args ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"--net=/run/netns/" + name}, args...)...)
	}
	b.run(within("ip", "link", "set", "lo", "up"))
	network := func() string {
		return b.run(within("ip", "-o", "addr")).stdout + b.run(within("ip", "route")).stdout + rules(b.run(within("iptables-save")).stdout)
	}
	before := network()
	t.Cleanup(func() { // the cgroups in which those of steps are made
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + name + "/kiln") //nolint:errcheck // the pattern is right
		for _, dir := range append(dirs, "/sys/fs/cgroup/"+name+"/kiln") {
			os.Remove(dir)               //nolint:errcheck // there may be none
			os.Remove(filepath.Dir(dir)) //nolint:errcheck // see above
		}
	})

	dir := testbed.Dir(t)
	b.daemon = &testbed.Daemon{Program: "nsenter", Dir: dir, Root: filepath.Join(dir, "root"), Addr: "unix://" + filepath.Join(dir, "kilnd.sock")}
	b.daemon.Args = []string{
		"--net=/run/netns/" + name, "kilnd", "--root", b.daemon.Root, "--addr", b.daemon.Addr, "--backend", "embedded", "--cgroup-parent", name,
		"--network", "bridge", "--bridge-name", name, "--bridge-subnet", subnet + "0.0/16", "--max-parallelism", fmt.Sprint(steps),
	}
	b.daemon.Start(t)
	text := "-- Dockerfile --\nFROM scratch AS base\nCOPY busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n"
	last := "FROM scratch\n"
	for i := range steps {
		// What a step leaves running ends with it.
		text += fmt.Sprintf("FROM base AS s%d\nRUN busybox sleep 77%d%d & busybox ip -o -4 addr | busybox grep -c %s > /o%d; busybox sleep 0.5\n", i, os.Getpid(), i, subnet, i)
		last += fmt.Sprintf("COPY --from=s%d /o%d /\n", i, i)
	}
	files, out := b.files(text+last), t.TempDir()
	program, err := exec.LookPath("busybox")
	b.must(err)
	b.run(exec.Command("cp", program, filepath.Join(files, "busybox")))
	b.build("--output", out, files)
	if got := b.tree(out); len(got) != steps || got["o0"] != "1\n" || got["o99"] != "1\n" {
		t.Errorf("the steps have made %q", got)
	}
	b.must(errors.Join(b.noSteps(), b.noneInUse()))

	b.must(b.daemon.Stop())
	if left, err := testbed.Processes(fmt.Sprint("busybox sleep 77", os.Getpid())); err != nil || len(left) > 0 {
		t.Errorf("processes: %q, %v", left, err)
	}
	if names, err := filepath.Glob(filepath.Join(b.daemon.Root, "bridge/networks/*")); err != nil || len(names) > 0 {
		t.Errorf("network namespaces: %v, %v", names, err)
	}
	if left, err := testbed.Mounts(dir); err != nil || len(left) > 0 {
		t.Errorf("mounts: %q, %v", left, err)
	}
	if left := cgroups(t, name); !slices.Equal(left, []string{"/" + name, "/" + name + "/kiln"}) {
		t.Errorf("cgroups, besides the empty ones that others may be made in: %q", left)
	}
	if after := network(); after != before {
		t.Errorf("the network was\n%s\nand is\n%s", before, after)
	}
}

// rules are the rules and chains of iptables-save, without the kernel's own.
func rules(saved string) string {
	var kept []string
	for line := range strings.Lines(saved) {
		if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":") && strings.Contains(line, " - ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// cgroups are the directories of a cgroup, in any hierarchy, each once.
func cgroups(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		parents, err := filepath.Glob(pattern + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, parent := range parents {
			err := filepath.WalkDir(parent, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					found = append(found, strings.TrimPrefix(path, filepath.Dir(parent)))
				}
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
