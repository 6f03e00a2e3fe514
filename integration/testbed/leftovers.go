package testbed

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// settle is how long a process may take to vanish after what ended it.
const settle = 5 * time.Second

// Mounts returns what is mounted below dir, in the order it was mounted.
func Mounts(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			found = append(found, f[4])
		}
	}
	return found, nil
}

// unmountAll unmounts what is left mounted below dir and says what that was.
func unmountAll(dir string) error {
	mounts, err := Mounts(dir)
	for _, m := range slices.Backward(mounts) {
		err = errors.Join(err, fmt.Errorf("%s is left mounted", m), syscall.Unmount(m, syscall.MNT_DETACH))
	}
	return err
}

// Processes returns the processes that have to do with dir: they name it in
// their arguments, work in it, or have a root that is mounted from it, as the
// steps of builds do.
func Processes(dir string) ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if proc := filepath.Join("/proc", e.Name()); concerns(proc, dir) {
			found = append(found, fmt.Sprintf("%d %s", pid, commandLine(proc)))
		}
	}
	return found, nil
}

// concerns looks at one process; one that is gone meanwhile concerns nothing.
func concerns(proc, dir string) bool {
	if strings.Contains(commandLine(proc), dir) {
		return true
	}
	if cwd, _ := os.Readlink(filepath.Join(proc, "cwd")); strings.HasPrefix(cwd, dir) {
		return true
	}
	mounts, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == "/" && strings.Contains(line, dir) {
			return true
		}
	}
	return false
}

func commandLine(proc string) string {
	line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
}

// noProcesses waits until no process has to do with dir.
func noProcesses(dir string) error {
	return Eventually(settle, func() error {
		left, err := Processes(dir)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left running: %s", strings.Join(left, "; "))
		}
		return err
	})
}

// Eventually tries check until it succeeds, or returns its last error after limit.
func Eventually(limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
