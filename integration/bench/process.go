package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	startLimit = 20 * time.Second
	stopLimit  = 20 * time.Second
)

// server is a long-running process that the bench started.
type server struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error        // of the process, once exited is closed
	output bytes.Buffer // likewise
}

// serve starts a server in a session of its own, so that an interrupt from the
// terminal reaches only the bench, which then stops it in order.
func serve(cmd *exec.Cmd) (*server, error) {
	s := &server{cmd: cmd, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &s.output, &s.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = cmd.Wait()
		close(s.exited)
	}()
	return s, nil
}

// wait calls ready until it succeeds. A server that exits instead is an error
// with the end of what it said.
func (s *server) wait(ctx context.Context, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("%s ended while starting: %w: %s", s.cmd.Path, s.err, tail(s.output.Bytes()))
		case <-ctx.Done():
			err = errors.Join(err, s.stop())
			return fmt.Errorf("%s is not ready within %v: %w\n%s", s.cmd.Path, startLimit, err, tail(s.output.Bytes()))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop ends the server, by force when it does not follow in time.
func (s *server) stop() error {
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		return nil
	case <-time.After(stopLimit):
	}
	s.cmd.Process.Kill()
	<-s.exited
	return fmt.Errorf("%s did not stop within %v of SIGTERM", s.cmd.Path, stopLimit)
}

// output runs a program to its end; an error carries the end of what it said.
func output(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, tail(out))
	}
	return nil
}

func tail(text []byte) string {
	const limit = 2000
	return string(bytes.TrimSpace(text[max(0, len(text)-limit):]))
}

// removeRoot removes a folder and the mounts below it. A mount found there is
// an error: the daemon that owned it has left it behind.
func removeRoot(root string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var left []string
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], root+"/") {
			left = append(left, f[4])
		}
	}
	for _, mount := range slices.Backward(left) {
		err = errors.Join(err, fmt.Errorf("%s was left mounted", mount), syscall.Unmount(mount, syscall.MNT_DETACH))
	}
	return errors.Join(err, os.RemoveAll(filepath.Clean(root)))
}
