// Package meter measures what the processes of a cgroup use: processor time,
// memory, reads and writes, processes, how long they had to wait for any of it,
// and what went over their network. It reads cgroup v2 and v1.
package meter

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-build/kiln/builder/event/usage"
)

// Root is where cgroups are mounted: one v2 hierarchy, or one of v1 for each
// controller.
const Root = "/sys/fs/cgroup"

// Read gives what the cgroup, an absolute path below the hierarchies that are
// mounted at root, has used. What can't be read is left out: which files there
// are depends on the kernel, on the controllers and on the version.
func Read(root, cgroup string) usage.Sample {
	s := usage.Sample{Time: time.Now()}
	if dir := filepath.Join(root, cgroup); Unified(root) {
		s.CPU, s.Memory, s.IO, s.PIDs = cpuV2(dir), memoryV2(dir), ioV2(dir), pids(dir)
		addPressure(&s, dir)
		return s
	}
	dir := func(controller string) string { return filepath.Join(root, controller, cgroup) }
	s.CPU, s.Memory = cpuV1(dir("cpu"), dir("cpuacct")), memoryV1(dir("memory"))
	s.IO, s.PIDs = ioV1(dir("blkio")), pids(dir("pids"))
	addPressure(&s, dir("unified"))
	return s
}

// Unified tells whether cgroup v2 is mounted at root.
func Unified(root string) bool {
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	return err == nil
}

// addPressure adds what the cgroup's pressure files say to what was found.
func addPressure(s *usage.Sample, dir string) {
	if s.CPU != nil {
		s.CPU.Pressure = ReadPressure(filepath.Join(dir, "cpu.pressure"))
	}
	if s.Memory != nil {
		s.Memory.Pressure = ReadPressure(filepath.Join(dir, "memory.pressure"))
	}
	if s.IO != nil {
		s.IO.Pressure = ReadPressure(filepath.Join(dir, "io.pressure"))
	}
}

// ReadPressure reads a pressure file, of a cgroup or of /proc/pressure. It is nil
// where there is none.
func ReadPressure(file string) *usage.Pressure {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var p usage.Pressure
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		s := &usage.Stall{}
		for _, f := range fields[1:] {
			name, value, _ := strings.Cut(f, "=")
			setStall(s, name, value)
		}
		switch fields[0] {
		case "some":
			p.Some = s
		case "full":
			p.Full = s
		}
	}
	if p.Some == nil && p.Full == nil {
		return nil
	}
	return &p
}

func setStall(s *usage.Stall, name, value string) {
	if name == "total" {
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			s.Total = &n
		}
		return
	}
	f, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return
	}
	switch name {
	case "avg10":
		s.Avg10 = &f
	case "avg60":
		s.Avg60 = &f
	case "avg300":
		s.Avg300 = &f
	}
}

// table are the numbers of a file of lines with a name and a number.
type table map[string]uint64

// readTable reads such a file; it is nil if there is none.
func readTable(dir, name string) table {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil
	}
	t := table{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			t[key] = n
		}
	}
	return t
}

// times is a number of the table in units of so much, nil if there is none.
func (t table) times(name string, unit uint64) *uint64 {
	n, ok := t[name]
	if !ok {
		return nil
	}
	n *= unit
	return &n
}

func (t table) get(name string) *uint64 { return t.times(name, 1) }

// readNumber reads a file with one number; it is nil if there is none.
func readNumber(dir, name string) *uint64 {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

// pids reads the controller's file, which has the same name in both versions.
func pids(dir string) *usage.PIDs {
	if n := readNumber(dir, "pids.current"); n != nil {
		return &usage.PIDs{Current: n}
	}
	return nil
}
