package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
)

var hostile = map[string]test{
	"fork bomb":       testForkBomb,
	"memory hog":      testMemoryHog,
	"disk filler":     testDiskFiller,
	"ignores signals": testIgnoresSignals,
	"many at once":    testManyAtOnce,
	"huge group file": testHugeGroupFile,
	"hostile HOME":    testHostileHome,
	"mount in proc":   testMountInProc,
}

// testForkBomb has processes that start others for ever. They are at an end with the
// first one.
func testForkBomb(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "b() { b | b & }; b 2>/dev/null; for i in $(seq 40); do sleep 333333 & done 2>/dev/null; cat "+
		"/sys/fs/cgroup/pids/pids.current /sys/fs/cgroup/pids.current 2>/dev/null >/count; sleep 0.2; exit 7")
	s.Resources.Pids = 30
	_, err := output(t, r, s)
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) {
		t.Errorf("error %v", err)
	}
	if left := commands(t, "333333"); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
}

// testMemoryHog has many processes that fill the memory together.
func testMemoryHog(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "for i in 1 2 3 4; do tail /dev/zero & done; wait; tail /dev/zero")
	s.Resources.Memory, s.Resources.MemorySwap = 32<<20, 32<<20
	if _, err := output(t, r, s); !errors.Is(err, sandbox.ErrOutOfMemory) {
		t.Errorf("error %v", err)
	}
}

// testDiskFiller writes to whatever a sandbox has that is not on a disk. All that has
// a bound.
func testDiskFiller(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, `for d in /dev /dev/shm /t; do
		dd if=/dev/zero of=$d/x bs=1M count=200 2>/dev/null && echo "$d is not bounded"; rm -f $d/x
	done; dd if=/dev/zero of=/proc/x bs=1 count=1 2>/dev/null && echo proc; dd if=/dev/zero of=/sys/x bs=1 count=1 2>/dev/null && echo sys; true`)
	s.Mounts = []sandbox.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/t", Options: []string{"size=10m"}}}
	if got := mustOutput(t, r, s); got != "" {
		t.Errorf("output %q", got)
	}
}

// enough is how long cancelled processes may take to end. On a loaded machine one of
// some attempts has to make it.
const enough = time.Second

func testIgnoresSignals(t *testing.T, r sandbox.Runner) {
	var took time.Duration
	for i := range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		begun, ended := make(chan struct{}), make(chan error, 1)
		word := fmt.Sprintf("44%d%d", os.Getpid(), ids.Add(1))
		s := newSpec(t, "trap '' TERM INT HUP QUIT; (trap '' TERM; sleep "+word+") & while :; do sleep "+word+"; done")
		go func() { ended <- r.Run(ctx, s, sandbox.IO{}, func() { close(begun) }) }()
		<-begun
		start := time.Now()
		cancel()
		for len(commands(t, word)) > 0 && time.Since(start) < timeout {
			time.Sleep(time.Millisecond)
		}
		took = time.Since(start)
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("attempt %d: error %v", i, err)
		}
		if took < enough {
			return
		}
	}
	t.Errorf("it took %v", took)
}

// testManyAtOnce runs a hundred processes at the same time.
func testManyAtOnce(t *testing.T, r sandbox.Runner) {
	shared := NewRoot(t)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 20) // a machine of two processors is busy with that
	for i := range 100 {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			s := newSpecOn(t.TempDir(), fmt.Sprintf("sleep 0.1 & echo %d; wait", i))
			s.Mounts, s.Network = []sandbox.Mount{bind(shared+"/bin", "/bin", "rbind", "ro")}, sandbox.NetworkNone
			s.RemoveStubsRecursive = true
			if got, err := output(t, r, s); err != nil || got != fmt.Sprintln(i) {
				t.Errorf("error %v, output %q", err, got)
			}
			if left := added(t, s.Root, nil); len(left) != 0 {
				t.Errorf("left in root: %q", left)
			}
		})
	}
	wg.Wait()
}

// testHugeGroupFile is about a file that would fill the daemon's memory.
func testHugeGroupFile(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "true")
	write(t, s.Root+"/etc/passwd", "ann:x:1:1::/:/bin/sh\n")
	file := write(t, s.Root+"/etc/group", "")
	if err := os.Truncate(file, 8<<30); err != nil { // sparse
		t.Fatal(err)
	}
	s.User = "ann"
	start := time.Now()
	if _, err := output(t, r, s); err == nil || !strings.Contains(err.Error(), "ann") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > timeout/2 {
		t.Errorf("it took %v", took)
	}
}

// testHostileHome: the user's directory is a wish, whatever the file with it is.
func testHostileHome(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "echo $HOME")
	write(t, s.Root+"/etc/passwd", "x:x:5:5::/room:/bin/sh\n")
	s.User = "5:5"
	if got := mustOutput(t, r, s); got != "/room" {
		t.Errorf("HOME is %q", got)
	}
	s = newSpec(t, "echo $HOME")
	s.User, s.Env = "5:5", []string{"PATH=/bin", "HOME=/mine"}
	if got := mustOutput(t, r, s); got != "/mine" {
		t.Errorf("HOME is %q", got)
	}
}

// testMountInProc: nothing may lie over the files by which a process is kept in.
func testMountInProc(t *testing.T, r sandbox.Runner) {
	for _, target := range []string{"/proc/sys", "/proc/self/attr", "/proc/1"} {
		s := newSpec(t, "echo ran")
		s.Mounts = []sandbox.Mount{bind(t.TempDir(), target)}
		if got, err := output(t, r, s); err == nil {
			t.Errorf("%s: %q", target, got)
		}
	}
}

// commands are the command lines of processes, in any sandbox, with a word in them.
func commands(t *testing.T, word string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		text, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		args := strings.Split(string(text), "\x00")
		if err == nil && slices.Contains(args, word) {
			found = append(found, e.Name()+" "+strings.Join(args, " "))
		}
	}
	return found
}
