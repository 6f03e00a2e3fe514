package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the kernel's unit of time in /proc/PID/stat, USER_HZ: 100 per second
// on every architecture that Go runs on.
const tick = time.Second / 100

// usage is what a process and its descendants have used.
type usage struct {
	// cpu counts user and system time of the living ones and of those that were
	// waited for: steps' processes included, daemons that left the tree not.
	cpu time.Duration
	// peak is the sum of the highest resident sizes (VmHWM) of the living ones,
	// in bytes. What a process used that is gone is not in it.
	peak int64
}

// treeUsage reads the usage of pid and its descendants from a proc filesystem.
func treeUsage(proc string, pid int) (usage, error) {
	tree, err := descendants(proc, pid)
	if err != nil {
		return usage{}, err
	}
	var u usage
	for _, p := range tree {
		status, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(p.pid), "status"))
		if err != nil && !gone(err) {
			return usage{}, err
		}
		u.cpu += p.cpu
		u.peak += fieldKB(status, "VmHWM") << 10
	}
	return u, nil
}

// resetPeak makes the present resident sizes the highest ones.
func resetPeak(proc string, pid int) error {
	tree, err := descendants(proc, pid)
	if err != nil {
		return err
	}
	for _, p := range tree {
		err := os.WriteFile(filepath.Join(proc, strconv.Itoa(p.pid), "clear_refs"), []byte("5"), 0)
		if err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

type process struct {
	pid, parent int
	cpu         time.Duration
}

// descendants lists pid and all processes below it.
func descendants(proc string, pid int) ([]process, error) {
	names, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "stat"))
	if err != nil {
		return nil, err
	}
	children := map[int][]process{}
	var found []process
	for _, name := range names {
		stat, err := os.ReadFile(name)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p, err := parseStat(stat)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if p.pid == pid {
			found = append(found, p)
		}
		children[p.parent] = append(children[p.parent], p)
	}
	if found == nil {
		return nil, fmt.Errorf("process %d is gone", pid)
	}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].pid]...)
	}
	return found, nil
}

// parseStat reads a line of /proc/PID/stat: see proc(5), whose fields count from 1.
// The second, the program's name in parentheses, may hold anything.
func parseStat(line []byte) (process, error) {
	name, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if name < 0 || end < 0 {
		return process{}, errors.New("no program name")
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(line[:name])))
	if err != nil {
		return process{}, err
	}
	fields := strings.Fields(string(line[end+1:])) // fields[0] is field 3
	if len(fields) < 15 {
		return process{}, errors.New("too few fields")
	}
	parent, err := strconv.Atoi(fields[1])
	p := process{pid: pid, parent: parent}
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		ticks, e := strconv.ParseInt(f, 10, 64)
		err = errors.Join(err, e)
		p.cpu += time.Duration(ticks) * tick
	}
	return p, err
}

// fieldKB finds a field of /proc/PID/status whose unit is kB; 0 without it.
func fieldKB(status []byte, name string) int64 {
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n
		}
	}
	return 0
}

// gone says whether reading a process's file failed because it has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || err != nil && strings.Contains(err.Error(), "no such process")
}
