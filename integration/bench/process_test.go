package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestServer(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	s, err := serve(exec.Command("sh", "-c", "touch "+ready+"; exec sleep 60"))
	if err != nil {
		t.Fatal(err)
	}
	err = s.wait(t.Context(), func() error {
		_, err := os.Stat(ready)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if err := s.cmd.Process.Signal(syscall.Signal(0)); err == nil {
		t.Error("still there after stop")
	}
}

func TestServerThatEnds(t *testing.T) {
	s, err := serve(exec.Command("sh", "-c", "echo no such flag >&2; exit 1"))
	if err != nil {
		t.Fatal(err)
	}
	err = s.wait(t.Context(), func() error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("error %v does not say why", err)
	}
}

func TestServerGivenUp(t *testing.T) {
	s, err := serve(exec.Command("sleep", "60"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.wait(ctx, func() error { return errors.New("no socket") }); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("error %v does not say what was missing", err)
	}
	select {
	case <-s.exited:
	default:
		t.Error("still running after it was given up")
	}
}

func TestOutput(t *testing.T) {
	if err := output(t.Context(), "true"); err != nil {
		t.Error(err)
	}
	err := output(t.Context(), "sh", "-c", "echo broken >&2; exit 3")
	if err == nil || !strings.HasSuffix(err.Error(), "exit status 3: broken") {
		t.Errorf("error %v", err)
	}
}

func TestRemoveRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	os.MkdirAll(filepath.Join(root, "a", "b"), 0o755)
	for _, dir := range []string{root + "/a", root + "/a/b"} {
		os.MkdirAll(dir, 0o755)
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	err := removeRoot(root)
	if err == nil || !strings.Contains(err.Error(), "/a/b was left mounted") {
		t.Errorf("error %v does not name what was left", err)
	}
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", root, err)
	}
	if err := removeRoot(root); err != nil {
		t.Errorf("again: %v", err)
	}
}
