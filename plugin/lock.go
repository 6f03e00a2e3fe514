package plugin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lock says that a root is in use. The kernel releases it when the process
// ends, however that happens.
type lock struct{ file *os.File }

// orphansEnd is how long a process may have the lock that a daemon which was killed
// had just begun to start: it gives it up when it becomes another program.
const orphansEnd = 5 * time.Second

// takeLock locks a root, and leaves the id of this process in the file.
func takeLock(root string) (*lock, error) {
	name := filepath.Join(root, "kilnd.lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock of root: %w", err)
	}
	if err := flock(f); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			who := ""
			if pid := holder(f); pid > 0 {
				who = fmt.Sprintf(" (process %d)", pid)
			}
			return nil, fmt.Errorf("root %s is in use by another daemon%s; stop that one or choose another --root", root, who)
		}
		return nil, fmt.Errorf("locking %s: %w", name, err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock of root: %w", err)
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock of root: %w", err)
	}
	return &lock{f}, nil
}

// flock locks a file, or fails with EWOULDBLOCK: at once, if the process is there
// that says that it has the lock.
func flock(f *os.File) error {
	for deadline := time.Now().Add(orphansEnd); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return err
		}
		if pid := holder(f); pid > 0 && !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			return err
		}
	}
}

// holder is the process that has the lock, 0 if that is not known.
func holder(f io.ReaderAt) int {
	data := make([]byte, 32)
	n, _ := f.ReadAt(data, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data[:n])))
	if err != nil {
		return 0
	}
	return pid
}

func (l *lock) release() error { return l.file.Close() }
