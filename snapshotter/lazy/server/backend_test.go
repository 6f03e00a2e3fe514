package server

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
)

// slow is a filesystem that has mounted when it is let go.
type slow struct {
	goOn, ended chan struct{}
	mounted     atomic.Int32
}

func (s *slow) Mount(context.Context, string, map[string]string) error {
	<-s.goOn
	s.mounted.Add(1)
	return nil
}

func (s *slow) Check(context.Context, string, map[string]string) error { return nil }

func (s *slow) Unmount(context.Context, string) error {
	s.mounted.Add(-1)
	close(s.ended)
	return nil
}

// What comes when nobody waits for it any more is taken off, and until then nothing
// else is shown there.
func TestMountedTooLate(t *testing.T) {
	t.Parallel()
	toc := "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	labels := map[string]string{
		"containerd.io/snapshot/remote/stargz.reference": "a.example/b:1",
		"containerd.io/snapshot/remote/stargz.digest":    toc,
		estargz.TOCJSONDigestAnnotation:                  toc,
	}
	for range 20 {
		fs := &slow{goOn: make(chan struct{}), ended: make(chan struct{})}
		s := &Server{
			current: &backend{fs: fs, verified: map[string]string{}},
			mounts:  map[string]*mountpoint{}, late: map[string]bool{},
		}
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.show(ctx, dir, labels); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := s.show(t.Context(), dir, labels); !errdefs.IsUnavailable(err) {
			t.Fatalf("again: %v", err)
		}
		close(fs.goOn)
		select {
		case <-fs.ended:
		case <-time.After(10 * time.Second):
			t.Fatal("it stays mounted")
		}
		if n := fs.mounted.Load(); n != 0 {
			t.Fatalf("%d mounts are left", n)
		}
	}
}

// A directory's lock is there for those who wait, and gone after them.
func TestLockDir(t *testing.T) {
	t.Parallel()
	s := &Server{cfg: Config{Root: t.TempDir()}, dirs: map[string]*dirLock{}}
	var inside, most atomic.Int32
	ended := make(chan struct{})
	for range 8 {
		go func() {
			defer func() { ended <- struct{}{} }()
			for range 200 {
				unlock := s.lockDir("a")
				most.Store(max(most.Load(), inside.Add(1)))
				inside.Add(-1)
				unlock()
			}
		}()
	}
	for range 8 {
		<-ended
	}
	if most.Load() != 1 || len(s.dirs) != 0 {
		t.Errorf("%d at once, %d locks are left", most.Load(), len(s.dirs))
	}
}
