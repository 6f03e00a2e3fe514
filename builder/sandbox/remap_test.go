package sandbox_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
	"golang.org/x/sys/unix"
)

func users(tb testing.TB) *idmap.Map {
	tb.Helper()
	m, err := idmap.Open("0:200000:65536")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return m
}

// remapped is a runner that remaps users. It mounts what processes see for them, as
// the layer store does.
type remapped struct {
	sandbox.Runner
	tb    testing.TB
	users *idmap.Map
}

func (r remapped) Run(ctx context.Context, s sandbox.Spec, io sandbox.IO, started func()) error {
	if s.Security == sandbox.Insecure {
		return r.Runner.Run(ctx, s, io, started)
	}
	dir, err := os.MkdirTemp("", "remapped-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	shift := func(source, name string) (string, error) {
		at := filepath.Join(dir, name)
		fi, err := os.Stat(source)
		if err != nil || !fi.IsDir() {
			return source, err
		}
		if err := os.Mkdir(at, 0o755); err != nil {
			return "", err
		}
		return at, r.users.Bind(source, at, 0)
	}
	defer func() {
		mounts, _ := filepath.Glob(dir + "/*")
		for _, m := range mounts {
			if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
				r.tb.Error(m, err)
			}
		}
	}()
	s.Users = r.users
	if s.Root, err = shift(s.Root, "root"); err != nil {
		return err
	}
	s.Mounts = slices.Clone(s.Mounts)
	for i, m := range s.Mounts {
		if m.Type == "bind" && m.Source != "" {
			if s.Mounts[i].Source, err = shift(m.Source, strconv.Itoa(i)); err != nil {
				return err
			}
		}
	}
	return r.Runner.Run(ctx, s, io, started)
}

func TestRemappedRunc(t *testing.T) {
	r, _ := newLocal(t, nil)
	sandboxtest.Run(t, remapped{r, t, users(t)})
}

// TestRemappedNative has a runtime too, for sandboxes that are shared.
func TestRemappedNative(t *testing.T) {
	program := sandboxtest.InitBinary(t)
	r, _ := newLocal(t, func(c *sandbox.Config) { c.Init = program })
	sandboxtest.Run(t, remapped{r, t, users(t)})
}

// TestRemappedNotShared: kiln-init can't add a process to a user namespace. One outside
// of it would have the rights of the host's root.
func TestRemappedNotShared(t *testing.T) {
	local, _ := newLocal(t, native(t))
	r := remapped{local, t, users(t)}
	s := sandbox.Spec{ID: "not-shared", Root: sandboxtest.NewRoot(t), Args: []string{"/bin/sh", "-c", "sleep 1000"}}
	ctx, cancel := context.WithCancel(t.Context())
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.Run(ctx, s, sandbox.IO{}, func() { close(started) }) }()
	select {
	case <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	err := r.Exec(t.Context(), s.ID, sandbox.Process{Args: []string{"/bin/true"}}, sandbox.IO{}, nil)
	if err == nil || !strings.Contains(err.Error(), "wasn't to be shared") {
		t.Errorf("error %v", err)
	}
	cancel()
	<-ended
}
