package sandbox_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
)

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestSlowWriter: all output arrives, however late.
func TestSlowWriter(t *testing.T) {
	t.Parallel()
	r, _ := newLocal(t, nil)
	total := 0
	slow := writerFunc(func(p []byte) (int, error) {
		time.Sleep(10 * time.Millisecond)
		total += len(p)
		return len(p), nil
	})
	s := sandbox.Spec{ID: "slow", Root: sandboxtest.NewRoot(t), Args: []string{"/bin/head", "-c", "1000000", "/dev/zero"}}
	if err := r.Run(t.Context(), s, sandbox.IO{Stdout: slow}, nil); err != nil || total != 1000000 {
		t.Errorf("error %v, %d bytes", err, total)
	}
}

// TestBrokenWriter: a process is not stopped by its log's reader.
func TestBrokenWriter(t *testing.T) {
	t.Parallel()
	r, _ := newLocal(t, nil)
	broken := writerFunc(func([]byte) (int, error) { return 0, errors.New("broken") })
	s := sandbox.Spec{ID: "broken", Root: sandboxtest.NewRoot(t), Args: []string{"/bin/head", "-c", "1000000", "/dev/zero"}}
	if err := r.Run(t.Context(), s, sandbox.IO{Stdout: broken}, nil); err != nil {
		t.Error(err)
	}
}

// TestBlockedWriter: a writer that never returns holds up a run, but not its cancellation.
func TestBlockedWriter(t *testing.T) {
	t.Parallel()
	r, _ := newLocal(t, nil)
	release := make(chan struct{})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	blocked := writerFunc(func(p []byte) (int, error) {
		cancel()
		<-release
		return len(p), nil
	})
	s := sandbox.Spec{ID: "blocked", Root: sandboxtest.NewRoot(t), Args: []string{"/bin/cat", "/dev/zero"}}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, s, sandbox.IO{Stdout: blocked}, nil) }()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	case <-time.After(8 * time.Second):
		t.Error("still running")
	}
}

// TestFiles: files work as streams too, and stay open.
func TestFiles(t *testing.T) {
	t.Parallel()
	r, _ := newLocal(t, nil)
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s := sandbox.Spec{ID: "file", Root: sandboxtest.NewRoot(t), Args: []string{"/bin/cat"}}
	if err := r.Run(t.Context(), s, sandbox.IO{Stdin: strings.NewReader("through"), Stdout: out}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(out); err != nil || string(got) != "through" {
		t.Errorf("got %q, error %v", got, err)
	}
}
