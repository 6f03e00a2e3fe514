package testbed

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const (
	startLimit = 20 * time.Second
	stopLimit  = 20 * time.Second
)

// Server is a program that runs until it is stopped. What it says goes to a
// file.
type Server struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // of the process, once exited is closed
	told   bool  // to end
}

// serve starts a program and waits until ready succeeds. It ends with this
// process, however that ends.
func serve(cmd *exec.Cmd, log string, ready func() error) (*Server, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	s := &Server{cmd: cmd, log: log, exited: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = cmd.Wait()
		close(s.exited)
	}()
	err = Eventually(startLimit, func() error {
		select {
		case <-s.exited:
			return nil
		default:
			return ready()
		}
	})
	if s.Exited() {
		return nil, fmt.Errorf("%s ended while starting: %w\n%s", cmd.Path, s.err, s.Log())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s is not ready within %v: %w\n%s", cmd.Path, startLimit, err, s.Log()), s.Stop())
	}
	return s, nil
}

// StartServer starts a program that has nothing to lose, with its log in a folder,
// waits until ready succeeds, and kills it when the test ends.
func StartServer(t testing.TB, dir string, ready func() error, program string, args ...string) {
	t.Helper()
	s, err := serve(exec.Command(program, args...), filepath.Join(dir, program+".log"), ready)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Kill() }) // it may have ended
}

// Stop asks the server to end and waits. One that has ended by itself, that ends
// with an error or has to be killed is an error; one that was stopped or killed
// before is not.
func (s *Server) Stop() error {
	switch {
	case s.told:
		return nil
	case s.Exited():
		return fmt.Errorf("%s has ended by itself: %w", s.cmd.Path, cmp.Or(s.err, errors.New("exit status 0")))
	}
	s.told = true
	if err := s.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if !s.Wait(stopLimit) {
		return errors.Join(fmt.Errorf("%s has not ended %v after SIGTERM", s.cmd.Path, stopLimit), s.Kill())
	}
	if s.err != nil {
		return fmt.Errorf("%s: %w", s.cmd.Path, s.err)
	}
	return nil
}

// Kill ends the server without asking it.
func (s *Server) Kill() error {
	s.told = true
	err := s.Signal(syscall.SIGKILL)
	<-s.exited
	return err
}

// Signal sends a signal to the server alone.
func (s *Server) Signal(sig syscall.Signal) error { return s.cmd.Process.Signal(sig) }

// Exited says whether the server has ended.
func (s *Server) Exited() bool { return s.Wait(0) }

// Wait waits for the server's end, and says whether it came within the limit.
func (s *Server) Wait(limit time.Duration) bool {
	select {
	case <-s.exited:
		return true
	default:
	}
	select {
	case <-s.exited:
		return true
	case <-time.After(limit):
		return false
	}
}

// Log returns the end of what the server has said.
func (s *Server) Log() string {
	const limit = 8000
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-limit):])
}

// stopAfter stops the server when the test ends, and shows its log if it failed.
func (s *Server) stopAfter(t testing.TB) { t.Cleanup(func() { s.stopNow(t) }) }

func (s *Server) stopNow(t testing.TB) {
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("%s:\n%s", s.log, s.Log())
	}
}
