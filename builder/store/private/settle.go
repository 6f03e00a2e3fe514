package private

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// settle hands a finished snapshot over to containerd, with its lease. Those
// who have the tree's directory open keep it.
func (s *space) settle(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	if _, ok, err := s.committed(name); !ok {
		return err
	}
	s.handing.Lock()
	defer s.handing.Unlock()
	t, ok, err := s.committed(name)
	if !ok {
		return err // somebody was faster
	}
	if err := s.handOverLeaseLocked(ctx, t.Lease); err != nil {
		return err
	}
	if err := s.move(leases.WithLease(ctx, t.Lease), name, &t); err != nil {
		return fmt.Errorf("hand snapshot %s over to containerd: %w", name, err)
	}
	s.forget(name, t)
	return nil
}

// move makes a snapshot of containerd's of the tree.
func (s *space) move(ctx context.Context, name string, t *tree) (err error) {
	under := s.under.Snapshots
	key := "kiln-settle-" + strings.ToLower(rand.Text())
	mounts, err := under.Prepare(ctx, key, "", snapshots.WithLabels(t.Working))
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		if rerr := under.Remove(context.WithoutCancel(ctx), key); rerr != nil && !errdefs.IsNotFound(rerr) {
			err = errors.Join(err, rerr)
		}
	}()
	to, err := directory(mounts)
	if err != nil {
		return err
	}
	// os.Rename doesn't replace a directory, though it is empty.
	if err := unix.Rename(s.dir(t), to); err != nil {
		return &os.LinkError{Op: "rename", Old: s.dir(t), New: to, Err: err}
	}
	if err := under.Commit(ctx, name, key, snapshots.WithLabels(t.Labels)); err != nil {
		return errors.Join(err, os.Rename(to, s.dir(t)))
	}
	return nil
}

func directory(mounts []mount.Mount) (string, error) {
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		return "", fmt.Errorf("a new snapshot isn't a directory: %w", errdefs.ErrNotImplemented)
	}
	return mounts[0].Source, nil
}

// drop removes a finished snapshot. space.handing is held.
func (s *space) drop(name string, t tree) {
	s.forget(name, t)
	s.discard(&t)
}

// gone is the end of the names of trees that are being removed.
const gone = ".gone"

// discard removes a tree in the background. It loses its name at once: the
// journal may still have it when the process is killed, and a part of a tree must
// not be taken for it.
func (s *space) discard(t *tree) {
	dir := s.dir(t)
	if err := os.Rename(dir, dir+gone); err == nil {
		dir += gone
	}
	s.trash.remove(dir)
}

// trash removes directories in the background, one at a time.
type trash struct {
	mu   sync.Mutex
	dirs []string
	gone chan struct{} // closed when all are; nil while there are none
}

func (t *trash) remove(dir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dirs = append(t.dirs, dir)
	if t.gone == nil {
		t.gone = make(chan struct{})
		go t.empty()
	}
}

func (t *trash) empty() {
	for dir := t.next(); dir != ""; dir = t.next() {
		if err := os.RemoveAll(dir); err != nil {
			log.L.WithError(err).Warnf("%s is left until the next start", filepath.Base(dir))
		}
	}
}

func (t *trash) next() (dir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.dirs) == 0 {
		close(t.gone)
		t.gone = nil
		return ""
	}
	dir, t.dirs = t.dirs[0], t.dirs[1:]
	return dir
}

// wait returns when all that was thrown away is gone.
func (t *trash) wait() {
	t.mu.Lock()
	gone := t.gone
	t.mu.Unlock()
	if gone != nil {
		<-gone
	}
}
