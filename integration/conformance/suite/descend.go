package suite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Adopt makes this process the parent of descendants whose own parent ends, so
// that daemons which tests leave behind can be found.
func Adopt() error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// endDescendants ends all children of this process but those to keep, and what
// becomes a child by that: first asking, then by force.
func (r *Runner) endDescendants() error {
	const patience, limit = 2 * time.Second, 10 * time.Second
	begin := time.Now()
	asked := map[int]bool{}
	for {
		children, err := r.strays()
		if err != nil || len(children) == 0 {
			return err
		}
		switch waited := time.Since(begin); {
		case waited > limit:
			return fmt.Errorf("processes %v do not end", children)
		case waited > patience:
			signalAll(children, syscall.SIGKILL)
		default:
			children = slices.DeleteFunc(children, func(pid int) bool { return asked[pid] })
			signalAll(children, syscall.SIGTERM)
			for _, pid := range children {
				asked[pid] = true
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func signalAll(pids []int, s syscall.Signal) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, s) // it may have ended by now
	}
}

// strays reaps what has ended and lists the other children.
func (r *Runner) strays() ([]int, error) {
	threads, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil, err
	}
	var left []int
	for _, name := range threads {
		list, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // a thread that has ended
		}
		if err != nil {
			return nil, err
		}
		for _, field := range strings.Fields(string(list)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			if slices.Contains(r.Keep, pid) {
				continue
			}
			if done, _ := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); done != pid {
				left = append(left, pid)
			}
		}
	}
	return left, nil
}

// removeTree removes a folder and detaches what is mounted below it.
func removeTree(root string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var mounts []string
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], root+"/") {
			mounts = append(mounts, f[4])
		}
	}
	for _, mount := range slices.Backward(mounts) {
		if err := syscall.Unmount(mount, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("unmount %s: %w", mount, err)
		}
	}
	return os.RemoveAll(root)
}
