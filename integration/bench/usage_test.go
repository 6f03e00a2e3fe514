package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		line string
		want process
		ok   bool
	}{
		{"42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 5", process{42, 7, 1240 * time.Millisecond}, true},
		{"42 (a) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3", process{}, false},
		{"42 (a) S x 42 42 0 -1 4194560 1 2 3 4 100 20 3 1 20", process{}, false},
		{"x (a) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 1 20", process{}, false},
		{"nothing", process{}, false},
		{"", process{}, false},
	} {
		got, err := parseStat([]byte(c.line))
		if (err == nil) != c.ok || c.ok && got != c.want {
			t.Errorf("%q: %v, %v, want %v", c.line, got, err, c.want)
		}
	}
}

// TestTreeUsage sums over a made-up proc filesystem: 1 has children 10 and 11,
// 10 has 100, and 2 is somebody else's.
func TestTreeUsage(t *testing.T) {
	proc := t.TempDir()
	for _, p := range []struct{ pid, parent, ticks, peak int }{
		{1, 0, 100, 1000}, {10, 1, 10, 200}, {11, 1, 5, 30}, {100, 10, 1, 4}, {2, 0, 900, 9000},
	} {
		dir := filepath.Join(proc, fmt.Sprint(p.pid))
		os.Mkdir(dir, 0o755)
		stat := fmt.Sprintf("%d (p) S %d 0 0 0 0 0 0 0 0 0 %d 0 0 0 20\n", p.pid, p.parent, p.ticks)
		os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o644)
		os.WriteFile(filepath.Join(dir, "status"), fmt.Appendf(nil, "Name:\tp\nVmHWM:\t%8d kB\nVmRSS:\t1 kB\n", p.peak), 0o644)
	}
	got, err := treeUsage(proc, 1)
	if want := (usage{1160 * time.Millisecond, 1234 << 10}); err != nil || got != want {
		t.Errorf("usage %v, %v, want %v", got, err, want)
	}
	if _, err := treeUsage(proc, 3); err == nil {
		t.Error("no error for a process that is not there")
	}
}

// TestUsageOfProcess measures a shell whose child works and ends.
func TestUsageOfProcess(t *testing.T) {
	shell := exec.Command("sh", "-c", "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; echo done; read line")
	input, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	defer shell.Wait()
	defer input.Close()
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := resetPeak("/proc", shell.Process.Pid); err != nil {
		t.Fatal(err)
	}
	got, err := treeUsage("/proc", shell.Process.Pid)
	if err != nil || got.cpu < tick || got.cpu > time.Minute || got.peak < 100<<10 || got.peak > 100<<20 {
		t.Errorf("usage %v, %v", got, err)
	}
}
