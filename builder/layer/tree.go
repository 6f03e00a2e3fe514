package layer

import (
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/builder/idmap"
)

// tree is the active snapshot behind one or several workspaces, and its mount,
// which they share.
type tree struct {
	s      *Store
	key    string // of the snapshot
	mounts []mount.Mount
	sync   bool // the tree must outlast a crash of the machine

	mu    sync.Mutex
	users int        // workspaces that have it mounted
	dir   string     // while users isn't 0
	ids   *idmap.Map // that it is mounted for
	gone  bool
}

// mount counts one more user of dir, which all have mounted for the same ids.
func (t *tree) mount(ids *idmap.Map) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return fmt.Errorf("the tree was removed: %w", errdefs.ErrNotFound)
	}
	if t.users > 0 && t.ids != ids {
		return fmt.Errorf("the tree is mounted for processes with other users: %w", errdefs.ErrFailedPrecondition)
	}
	if t.users == 0 {
		if err := t.s.trees.mounting(t); err != nil {
			return err
		}
		dir, err := t.s.newDir()
		if err != nil {
			return err
		}
		if err := t.mountOn(dir, ids); err != nil {
			t.s.trees.unmounted(t)
			return errors.Join(err, unmountDir(dir))
		}
		t.dir, t.ids = dir, ids
	}
	t.users++
	return nil
}

// mountOn avoids that the kernel writes everything out at the unmount, where
// the tree's fate doesn't depend on it.
func (t *tree) mountOn(dir string, ids *idmap.Map) error {
	if t.sync || t.s.noVolatile.Load() {
		return t.s.mountFor(ids, t.mounts, dir)
	}
	volatile, ok := withVolatile(t.mounts)
	if !ok {
		return t.s.mountFor(ids, t.mounts, dir)
	}
	if err := forgetVolatile(t.mounts); err != nil {
		return err
	}
	err := t.s.mountFor(ids, volatile, dir)
	if errors.Is(err, unix.EINVAL) && t.s.mountFor(ids, t.mounts, dir) == nil {
		t.s.noVolatile.Store(true) // the kernel is older than the option
		return nil
	}
	return err
}

func (t *tree) unmount() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users == 0 { // the store was closed
		return nil
	}
	t.users--
	if t.users > 0 {
		return nil
	}
	return t.unmountNow()
}

// unmountNow needs t.mu.
func (t *tree) unmountNow() error {
	dir := t.dir
	t.dir, t.users = "", 0
	t.s.trees.unmounted(t)
	return unmountDir(dir)
}

// trees are the writable trees that are open.
type trees struct {
	opening keyLock // by snapshot key

	mu      sync.Mutex
	kept    map[string]*tree // persistent ones, by snapshot key
	mounted map[*tree]struct{}
	closed  bool
}

// keep returns the tree that is open under t's key, which is t if none is.
func (ts *trees) keep(t *tree) *tree {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if open := ts.kept[t.key]; open != nil {
		return open
	}
	if ts.kept == nil {
		ts.kept = map[string]*tree{}
	}
	ts.kept[t.key] = t
	return t
}

// forget gives up a tree that will be removed, unless it is mounted.
func (ts *trees) forget(t *tree) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users > 0 {
		return false
	}
	t.gone = true
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.kept, t.key)
	return true
}

func (ts *trees) mounting(t *tree) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.closed {
		return fmt.Errorf("the layer store is closed: %w", errdefs.ErrUnavailable)
	}
	if ts.mounted == nil {
		ts.mounted = map[*tree]struct{}{}
	}
	ts.mounted[t] = struct{}{}
	return nil
}

func (ts *trees) unmounted(t *tree) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.mounted, t)
}

func (ts *trees) close() error {
	ts.mu.Lock()
	ts.closed = true
	var rest []*tree
	for t := range ts.mounted {
		rest = append(rest, t)
	}
	ts.mu.Unlock()
	var errs []error
	for _, t := range rest {
		t.mu.Lock()
		if t.users > 0 {
			errs = append(errs, t.unmountNow())
		}
		t.mu.Unlock()
	}
	return errors.Join(errs...)
}
