package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/proxy"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
)

// TestCancelAnyMoment cancels runs from before the runtime's start to after the
// process', and looks for what is left.
func TestCancelAnyMoment(t *testing.T) {
	t.Parallel()
	for name, engine := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, cfg := newLocal(t, engine(t))
			cancelAnyMoment(t, r, cfg)
		})
	}
}

func cancelAnyMoment(t *testing.T, r *sandbox.Local, cfg sandbox.Config) {
	t.Helper()
	root := sandboxtest.NewRoot(t)
	// Of all runners of this process, in command lines.
	word := fmt.Sprint(98765, os.Getpid(), words.Add(1))
	for i := range 25 {
		// The number is in the command line of the process and of the runtime's stages.
		s := sandbox.Spec{
			ID: fmt.Sprintf("cancel-%d-%d", os.Getpid(), i), Root: root,
			Args:   []string{"/bin/sh", "-c", fmt.Sprintf("sleep %s%d & sleep %s%d", word, i, word, i)},
			Mounts: []sandbox.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/mnt"}},
		}
		if i%2 == 1 {
			s.Proxy, s.Network = newProxy(t), sandbox.NetworkHost
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*2*time.Millisecond)
		err := r.Run(ctx, s, sandbox.IO{Stdout: io.Discard}, nil)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %d ms: %v", i*2, err)
		}
		checkNothingLeft(t, cfg)
		if left := processes(t, fmt.Sprint(word, i)); len(left) != 0 {
			t.Errorf("after %d ms: processes %v left", i*2, left)
		}
		for _, name := range []string{"/mnt", "/etc/hosts", "/etc/resolv.conf"} {
			if _, err := os.Lstat(root + name); err == nil {
				t.Errorf("after %d ms: %s left", i*2, name)
			}
		}
	}
}

var words atomic.Int64

func TestNoLeaks(t *testing.T) {
	for name, engine := range engines {
		t.Run(name, func(t *testing.T) {
			r, _ := newLocal(t, engine(t))
			noLeaks(t, r)
		})
	}
}

func noLeaks(t *testing.T, r *sandbox.Local) {
	t.Helper()
	root := sandboxtest.NewRoot(t)
	run := func(args []string, terminal bool) {
		s := sandbox.Spec{ID: "leak", Root: root, Args: args, Terminal: terminal}
		io := sandbox.IO{Stdin: strings.NewReader("x"), Stdout: io.Discard, Stderr: io.Discard}
		r.Run(t.Context(), s, io, nil) //nolint:errcheck // some fail on purpose
	}
	run([]string{"/bin/true"}, true)
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for i := range 10 {
		for _, command := range []string{"/bin/true", "/bin/false", "/nothing"} {
			run([]string{command}, i%2 == 1)
		}
	}
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if now := runtime.NumGoroutine(); now > goroutines {
		t.Errorf("%d goroutines, %d before", now, goroutines)
	}
	if now := openFiles(t); now > files {
		t.Errorf("%d open files, %d before", now, files)
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestSameIDTwice(t *testing.T) {
	t.Parallel()
	r, _ := newLocal(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := sandbox.Spec{ID: "same", Root: sandboxtest.NewRoot(t), Args: []string{"/bin/sleep", "1000"}}
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.Run(ctx, s, sandbox.IO{}, func() { close(started) }) }()
	<-started
	if err := r.Run(t.Context(), s, sandbox.IO{}, nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("error %v", err)
	}
	if err := r.Reconcile(t.Context()); err != nil {
		t.Errorf("reconcile: %v", err)
	}
	select {
	case err := <-ended:
		t.Fatalf("Reconcile ended a run: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	<-ended
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	r, _ := newLocal(t, nil)
	var wg sync.WaitGroup
	for i := range 16 {
		root := sandboxtest.NewRoot(t)
		wg.Go(func() {
			want := fmt.Sprint(i, "\n")
			s := sandbox.Spec{ID: fmt.Sprintf("many-%d", i), Root: root, Args: []string{"/bin/echo", fmt.Sprint(i)}}
			if got, err := collect(t.Context(), r, s); err != nil || got != want {
				t.Errorf("error %v, output %q", err, got)
			}
		})
	}
	wg.Wait()
}

func newProxy(t *testing.T) *proxy.Proxy {
	t.Helper()
	a, err := proxy.NewAuthority(nil)
	if err != nil {
		t.Fatal(err)
	}
	return a.New()
}

// TestReconcileProxy: the networks of runs with a proxy don't outlive their daemon.
func TestReconcileProxy(t *testing.T) {
	t.Parallel()
	r, cfg := newLocal(t, nil)
	bundle := filepath.Join(cfg.StateDir, "runs", "killed")
	if err := os.Mkdir(bundle, 0o711); err != nil {
		t.Fatal(err)
	}
	n, err := newProxy(t).Open(proxy.Place{Dir: bundle})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	checkNothingLeft(t, cfg)
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// TestReconcile kills a daemon, with and without the runtime, while a process runs.
func TestReconcile(t *testing.T) {
	t.Parallel()
	for _, also := range []string{"daemon", "runtime", "state"} {
		t.Run(also, func(t *testing.T) {
			t.Parallel()
			r, cfg := newLocal(t, nil)
			cmd := daemon{cfg, sandbox.Spec{ID: "orphan", Root: sandboxtest.NewRoot(t), Args: []string{"/bin/sleep", "1234567"}}}.command(t)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(out, make([]byte, len("started"))); err != nil {
				t.Fatal(err)
			}
			syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
			cmd.Wait() //nolint:errcheck // it was killed
			pid := cgroupProcess(t, cfg)
			if also != "daemon" {
				kill(t, processes(t, cfg.StateDir))
			}
			if also == "state" {
				if err := os.Remove(filepath.Join(cfg.StateDir, "runtime", "orphan", "state.json")); err != nil {
					t.Fatal(err)
				}
			}
			if err := syscall.Kill(pid, 0); err != nil {
				t.Fatalf("the process is not there any more: %v", err)
			}
			if err := r.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
			checkNothingLeft(t, cfg)
			if err := syscall.Kill(pid, 0); err == nil && !zombie(pid) {
				t.Errorf("process %d still runs", pid)
			}
		})
	}
}

// cgroupProcess is the id of the one process in cfg's cgroups.
func cgroupProcess(t *testing.T, cfg sandbox.Config) int {
	t.Helper()
	for _, dir := range cgroups(t, cfg) {
		text, err := os.ReadFile(dir + "/orphan/cgroup.procs")
		var pid int
		if n, _ := fmt.Sscan(string(text), &pid); err == nil && n == 1 {
			return pid
		}
	}
	t.Fatal("no process in the cgroup")
	return 0
}

func kill(t *testing.T, ids []string) {
	t.Helper()
	for _, id := range ids {
		var pid int
		if _, err := fmt.Sscan(id, &pid); err != nil || pid == os.Getpid() {
			t.Fatalf("process %q: %v", id, err)
		}
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

// TestKilledDaemon kills a daemon whose process some engine runs.
func TestKilledDaemon(t *testing.T) {
	t.Parallel()
	for name, engine := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, cfg := newLocal(t, engine(t))
			word := fmt.Sprint(76543, os.Getpid(), words.Add(1))
			s := sandbox.Spec{ID: "orphan-" + name, Root: sandboxtest.NewRoot(t), Args: []string{"/bin/sh", "-c", "sleep " + word + " & sleep " + word}}
			cmd := daemon{cfg, s}.command(t)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(out, make([]byte, len("started"))); err != nil {
				t.Fatal(err)
			}
			syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
			cmd.Wait() //nolint:errcheck // it was killed
			if name == "native" {
				waitUntilGone(t, word) // with the daemon, before another comes
			}
			if err := r.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
			checkNothingLeft(t, cfg)
			waitUntilGone(t, word)
		})
	}
}

func waitUntilGone(t *testing.T, word string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); len(processes(t, word)) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("processes left: %v", processes(t, word))
		}
	}
}
