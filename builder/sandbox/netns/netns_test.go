package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenOne(t *testing.T) {
	t.Parallel()
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil || !Is(path) {
		t.Errorf("a namespace: %t, %v", Is(path), err)
	}
	err = Do(path, func() error {
		there, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil || there == here {
			return fmt.Errorf("in %s, out %s, %w", there, here, err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			err = l.Close()
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if f.Close(); Is(path) {
		t.Error("it is left")
	}
}

func TestNamespace(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ns")
	if Is(file) {
		t.Error("it is there before it is made")
	}
	if err := Make(file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Remove(file) })
	if err := Make(file); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
	var inside, outside string
	var l net.Listener
	err := Do(file, func() (err error) {
		if inside, err = os.Readlink("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if outside, err = os.Readlink("/proc/self/ns/net"); err != nil || inside == outside {
		t.Errorf("in %s, out %s, %v", inside, outside, err)
	}
	dial := func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial(); err == nil {
		t.Error("the socket is reached from outside")
	}
	for range 100 { // one of them on the main thread, if that were used
		if err := Do(file, dial); err != nil {
			t.Fatalf("the socket isn't reached: %v", err)
		}
	}
	if now, _ := os.Readlink("/proc/self/ns/net"); now != outside {
		t.Errorf("the process is in %s, was in %s", now, outside)
	}
	why := errors.New("why")
	if err := Do(file, func() error { return why }); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if err := Remove(file); err != nil {
			t.Error(err)
		}
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); Is(file) || strings.Contains(string(mounts), file) {
		t.Error("it is left")
	}
	if err := Do(file, func() error { return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("entered: %v", err)
	}
}
