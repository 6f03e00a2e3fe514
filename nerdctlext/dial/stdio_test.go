package dial_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/nerdctlext/daemontest"
	"github.com/kiln-build/kiln/nerdctlext/dial"
)

// TestMain is, when it is started with the name of a helper, that helper: it reaches the
// socket that the environment names.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "ssh" {
		if got := strings.Join(os.Args[1:], " "); got != "-- builder buildctl dial-stdio" {
			os.Stderr.WriteString("started as ssh " + got)
			os.Exit(2)
		}
		if err := dial.Stdio(context.Background(), os.Getenv("TEST_SOCKET"), os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestThroughAHelper(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "ssh")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	t.Setenv("TEST_SOCKET", daemontest.Start(t).Address())
	got, err := version(t.Context(), dial.Options{Address: "ssh://builder", Timeout: 10 * time.Second})
	if err != nil || got != "v1.2.3" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := version(t.Context(), dial.Options{Address: "ssh://elsewhere"}); err == nil || !strings.Contains(err.Error(), "started as ssh") {
		t.Errorf("what the helper says is lost: %v", err)
	}
}

func TestStdioPassesTheEndOn(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kiln")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // answers only when the question has ended
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		question, _ := io.ReadAll(conn)
		conn.Write(append([]byte("answer to "), question...))
	}()
	var out bytes.Buffer
	if err := dial.Stdio(t.Context(), "unix://"+filepath.Join(dir, "s"), strings.NewReader("question"), &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != "answer to question" {
		t.Errorf("got %q", out.String())
	}
}

func TestStdioEndsWithTheDaemonAndTheContext(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kiln")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address := "unix://" + filepath.Join(dir, "s")
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	in, writer := io.Pipe() // never ends
	defer writer.Close()
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			conn.Close()
		}
	}()
	if err := dial.Stdio(t.Context(), address, in, io.Discard); err != nil {
		t.Errorf("the daemon closed: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- dial.Stdio(ctx, address, in, io.Discard) }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error when the context ended")
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not end with its context")
	}
	if err := dial.Stdio(t.Context(), "tcp://x:1", in, io.Discard); err == nil {
		t.Error("tcp was accepted")
	}
}
