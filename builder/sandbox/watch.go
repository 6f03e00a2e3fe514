package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ownProcessGroup keeps the signals of the daemon's terminal from the runtime.
var ownProcessGroup = &syscall.SysProcAttr{Setpgid: true}

const (
	// A runtime writes the process' id some milliseconds after its own start. We
	// look for it often at first.
	pollEvery  = time.Millisecond
	pollLater  = 10 * time.Millisecond
	pollEagerN = 100
)

// reach says what dies with a process.
type reach int

const (
	// wholeNamespace is for the first process of a PID namespace.
	wholeNamespace reach = iota
	// processGroup is for a process beside the first one.
	processGroup
)

// watcher looks after one process of the runtime, from its start to its end.
type watcher struct {
	process *exec.Cmd
	pidFile string
	reach   reach
	started func()
	streams *streams
	io      IO
	// patience is Local's.
	patience time.Duration

	target  *os.Process // the process in the sandbox, once known
	killed  bool
	pending []syscall.Signal // to be sent when there is a target
	blocked <-chan time.Time // when a writer blocks a process that was killed
	overdue <-chan time.Time // when the runtime is killed too
}

// watch returns when the runtime has ended.
func (w *watcher) watch(ctx context.Context) {
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		w.process.Wait() //nolint:errcheck // ProcessState tells
	}()
	wanted := wishes(ctx, w.io, exited)
	poll := time.NewTimer(pollEvery)
	defer poll.Stop()
	for n := 0; ; {
		select {
		case <-exited:
			if w.find() {
				w.target.Release() //nolint:errcheck // never fails on Linux
			}
			return
		case <-poll.C:
			if !w.find() {
				if n++; n < pollEagerN {
					poll.Reset(pollEvery)
				} else {
					poll.Reset(pollLater)
				}
			}
		case <-w.blocked:
			w.streams.discard()
		case <-w.overdue:
			unix.Kill(-w.process.Process.Pid, unix.SIGKILL) //nolint:errcheck // it may have just ended
		case wish := <-wanted:
			wish(w)
		}
	}
}

// end implements steered.
func (w *watcher) end() {
	w.killed = true
	w.blocked, w.overdue = time.After(writeGrace), time.After(w.patience)
	w.send(unix.SIGKILL)
}

// resize implements steered.
func (w *watcher) resize(size WinSize) { w.streams.resize(size, w.process.Process) }

// find looks for the id that the runtime writes down once the process runs.
func (w *watcher) find() bool {
	if w.target != nil {
		return true
	}
	text, err := os.ReadFile(w.pidFile)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil || pid <= 1 {
		return false
	}
	if w.target, err = os.FindProcess(pid); err != nil {
		return false
	}
	w.started()
	for _, sig := range w.pending {
		w.send(sig)
	}
	return true
}

// send signals the process, now or as soon as it runs. One that has just ended is
// no error.
func (w *watcher) send(sig syscall.Signal) {
	if w.target == nil {
		w.pending = append(w.pending, sig)
		return
	}
	if !childOf(w.target.Pid, w.process.Process.Pid) {
		return // it was reaped, and its id may be another's
	}
	if sig == unix.SIGKILL && w.reach == processGroup {
		// It has a group of its own, by runc, or is in that of a process of the runtime's,
		// by crun; not in the daemon's, which the runtime has left.
		if group, err := unix.Getpgid(w.target.Pid); err == nil && group > 1 && group != unix.Getpgrp() {
			unix.Kill(-group, sig) //nolint:errcheck // see above
		}
	}
	w.target.Signal(sig) //nolint:errcheck // see above
}

// childOf tells whether pid is a child of parent.
func childOf(pid, parent int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// pid (comm) state ppid …; comm may hold anything, ')' included.
	_, rest, ok := cutLast(string(text), ") ")
	fields := strings.Fields(rest)
	return ok && len(fields) > 1 && fields[1] == strconv.Itoa(parent)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
