package plugin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOneDaemonPerRoot(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for range 2 {
		first, err := takeLock(root)
		if err != nil {
			t.Fatal(err)
		}
		_, err = takeLock(root)
		if err == nil {
			t.Fatal("two daemons have the lock")
		}
		for _, want := range []string{root, fmt.Sprintf("process %d", os.Getpid()), "--root"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q does not contain %q", err, want)
			}
		}
		if err := first.release(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLockOfTheDead: a process that was killed may have left a child that is about
// to become another program and still has the lock. It is waited for.
func TestLockOfTheDead(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(root, "kilnd.lock")
	if err := os.WriteFile(name, fmt.Appendln(nil, dead.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	child, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(child.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, func() { child.Close() })
	l, err := takeLock(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
}
