package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// oomFiles are the files, below cgroupRoot, that count the processes of a cgroup that
// were killed for lack of memory: cgroup v2's and v1's, each with "oom_kill N".
func oomFiles(cgroup string) []string {
	return []string{
		filepath.Join(cgroupRoot, cgroup, "memory.events"),
		filepath.Join(cgroupRoot, "memory", cgroup, "memory.oom_control"),
	}
}

// oomKilled tells whether a process of the cgroup was killed for lack of memory.
func oomKilled(cgroup string) bool {
	for _, file := range oomFiles(cgroup) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if n, err := strconv.Atoi(value); name == "oom_kill" && err == nil && n > 0 {
				return true
			}
		}
	}
	return false
}

// cgroupRetry is how long a killed process may keep its cgroup before we look again.
const cgroupRetry = 10 * time.Millisecond

// removeCgroup kills what is left in a cgroup and removes it from every hierarchy.
// It is for what a runtime left that was killed itself.
func removeCgroup(ctx context.Context, cgroup string) error {
	if !filepath.IsAbs(cgroup) {
		return nil // a scope, which its engine has systemd remove
	}
	for {
		dirs, err := cgroupDirs(cgroup)
		if err != nil || len(dirs) == 0 {
			return err
		}
		for _, dir := range dirs {
			killAll(dir)
			err = errors.Join(err, ignoreAbsent(os.Remove(dir)))
		}
		if err == nil {
			return nil
		}
		select {
		case <-time.After(cgroupRetry):
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", cgroup, errors.Join(err, ctx.Err()))
		}
	}
}

// cgroupDirs are a cgroup's directories and those below them in every hierarchy,
// innermost first.
func cgroupDirs(cgroup string) ([]string, error) {
	tops := []string{cgroupRoot + cgroup}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		tops = append(tops, filepath.Join(cgroupRoot, e.Name())+cgroup)
	}
	var dirs []string
	for _, top := range tops {
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return ignoreAbsent(err)
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Reverse(dirs)
	return dirs, nil
}

func killAll(dir string) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for field := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
			unix.Kill(pid, unix.SIGKILL) //nolint:errcheck // it may have just ended
		}
	}
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
