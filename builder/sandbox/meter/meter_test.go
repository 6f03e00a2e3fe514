package meter

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder/event/usage"
	"golang.org/x/sys/unix"
)

// tree writes files below a new directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const pressure = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=77\n"

func TestRead(t *testing.T) {
	t.Parallel()
	v2 := tree(t, map[string]string{
		"cgroup.controllers":      "cpu io memory pids\n",
		"k/i/cpu.stat":            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\nthrottled_usec 7\n",
		"k/i/cpu.pressure":        pressure,
		"k/i/memory.stat":         "anon 100\nfile 200\nkernel 9\nslab 3\npgfault 5\n",
		"k/i/memory.peak":         "4096\n",
		"k/i/memory.swap.current": "11\n",
		"k/i/memory.events":       "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\n",
		"k/i/io.stat":             "254:0 rbytes=5 wbytes=6 rios=1 wios=2 dbytes=0 dios=0\n254:16 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=3 dios=1\n",
		"k/i/pids.current":        "2\n",
	})
	v1 := tree(t, map[string]string{
		"cpuacct/k/i/cpuacct.usage":                           "30000\n",
		"cpuacct/k/i/cpuacct.stat":                            "user 2\nsystem 1\n",
		"cpu/k/i/cpu.stat":                                    "nr_periods 4\nnr_throttled 3\nthrottled_time 7000\n",
		"unified/k/i/cpu.pressure":                            pressure,
		"memory/k/i/memory.stat":                              "rss 1\ntotal_rss 100\ntotal_cache 200\ntotal_pgfault 5\n",
		"memory/k/i/memory.max_usage_in_bytes":                "4096\n",
		"memory/k/i/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
		"blkio/k/i/blkio.throttle.io_service_bytes_recursive": "254:0 Read 5\n254:0 Write 6\n254:16 Read 10\n254:16 Write 20\n254:16 Discard 3\nTotal 44\n",
		"blkio/k/i/blkio.throttle.io_serviced_recursive":      "254:0 Read 1\n254:0 Write 2\n254:16 Read 1\n254:16 Write 1\n",
		"pids/k/i/pids.current":                               "2\n",
	})
	for name, root := range map[string]string{"v1": v1, "v2": v2} {
		s := Read(root, "/k/i")
		for what, c := range map[string]struct {
			got  *uint64
			want uint64
		}{
			"processor time": {s.CPU.UsageNanos, 30000}, "throttled": {s.CPU.ThrottledNanos, 7000}, "periods": {s.CPU.Periods, 4},
			"anonymous memory": {s.Memory.Anon, 100}, "file memory": {s.Memory.File, 200}, "peak": {s.Memory.Peak, 4096},
			"page faults": {s.Memory.Pgfault, 5}, "read": {s.IO.ReadBytes, 15}, "written": {s.IO.WriteBytes, 26},
			"discarded": {s.IO.DiscardBytes, 3}, "reads": {s.IO.ReadOps, 2}, "writes": {s.IO.WriteOps, 3},
			"processes": {s.PIDs.Current, 2}, "pressure": {s.CPU.Pressure.Some.Total, 1234}, "kills": {&s.Memory.OomKillEvents, 4},
		} {
			if c.got == nil || *c.got != c.want {
				t.Errorf("%s: %s: got %v, want %d", name, what, c.got, c.want)
			}
		}
		if got := *s.CPU.Pressure.Some.Avg10; got != 1.5 {
			t.Errorf("%s: pressure %v", name, got)
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"usageNanos":30000`, `"peak":4096`, `"readIOs":2`, `"current":2`, `"avg10":1.5`, `"timestamp":`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: no %s in %s", name, want, text)
			}
		}
	}
	if s := Read(v2, "/none"); s.CPU != nil || s.Memory != nil || s.IO != nil || s.PIDs != nil {
		t.Errorf("of a cgroup that isn't there: %+v", s)
	}
}

// TestDamagedFiles: what the kernel doesn't write is no panic.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"cgroup.controllers": "", "g/cpu.stat": "usage_usec\nusage_usec -1\n\x00", "g/cpu.pressure": "some\nsome avg10= total=x\n\n",
		"g/io.stat": "= == rbytes=x", "g/memory.stat": "\n\n", "g/pids.current": "max\n",
	})
	if s := Read(root, "/g"); s.CPU.UsageNanos != nil || s.PIDs != nil {
		t.Errorf("%+v", s)
	}
}

// TestUnifiedTree reads a real cgroup of the v2 hierarchy, which there is on every
// machine, if only beside v1's.
func TestUnifiedTree(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root, 0) //nolint:errcheck // the directory's removal would fail
	dir, err := os.MkdirTemp(root, "usage-test-")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `echo 0 > "$1/cgroup.procs"; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done`, "sh", dir)
	out, err := cmd.CombinedOutput()
	s := Read(root, "/"+filepath.Base(dir))
	if e := os.Remove(dir); e != nil || err != nil {
		t.Fatal(e, err, string(out))
	}
	if s.CPU == nil || s.CPU.UsageNanos == nil || *s.CPU.UsageNanos == 0 {
		t.Errorf("no processor time: %+v", s.CPU)
	}
	if s.CPU.Pressure == nil || s.CPU.Pressure.Some == nil || s.CPU.Pressure.Some.Total == nil {
		t.Errorf("no pressure: %+v", s.CPU)
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	var got []usage.Sample
	m := Start("/not-there-"+filepath.Base(t.TempDir()), "/proc/self/ns/net", func(s usage.Sample) { got = append(got, s) })
	m.Stop()
	if len(got) != 1 || got[0].Network == nil || got[0].CPU != nil {
		t.Errorf("samples %+v", got)
	}
	m = Start("/not-there", "/nothing", func(s usage.Sample) { got = append(got, s) })
	m.Stop()
	if len(got) != 1 {
		t.Error("a sample of nothing")
	}
}
