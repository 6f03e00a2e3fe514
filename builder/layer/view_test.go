package layer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/event"
)

// TestViewsOfAKilledProcess: containerd may still know views of an earlier
// process that the snapshotter doesn't list any more.
func TestViewsOfAKilledProcess(t *testing.T) {
	ctx, s := open(t)
	l, err := s.Unpack(ctx, testImage(t, ctx, s), event.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, err := s.store.Snapshots.View(ctx, fmt.Sprintf("kiln-view-%s-%d", s.ID(), i), l.Name); err != nil {
			t.Fatal(err)
		}
	}
	_, release, err := s.Mount(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	release()
}

// TestProgramKilled: a layer is mounted anew when the program that showed it was
// killed.
func TestProgramKilled(t *testing.T) {
	ctx, s := openOn(t, "fuse-overlayfs")
	l := twoLayers(t, ctx, s)
	dir, release, err := s.Mount(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	pid := program(t, dir)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for !stale(dir) { // it is about to end
		time.Sleep(time.Millisecond)
	}
	again, release, err := s.Mount(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if again == dir || read(t, again+"/etc/c") != "3" {
		t.Errorf("mounted on %s, then on %s", dir, again)
	}
}

// program finds the process that shows what is mounted on the directory.
func program(t *testing.T, dir string) int {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		line, _ := os.ReadFile(path) // it may have ended
		if args := strings.Split(string(line), "\x00"); strings.HasSuffix(args[0], "fuse-overlayfs") && slices.Contains(args, dir) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("nobody shows %s", dir)
	return 0
}
