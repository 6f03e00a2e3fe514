package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// reconcile makes the names and the directories agree: directories without
// names are removed in the background, names without directories at once.
func (s *Snapshotter) reconcile(ctx context.Context, crashed bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.dropUnsynced(ctx, crashed); err != nil {
		return err
	}
	found, err := os.ReadDir(filepath.Join(s.root, "dirs"))
	if err != nil {
		return fmt.Errorf("snapshotter: %w", err)
	}
	there := map[string]bool{}
	for _, f := range found {
		id := f.Name()
		there[id] = true
		if number, err := strconv.ParseUint(id, 36, 64); err == nil {
			s.nextID = max(s.nextID, number)
		}
		if s.nodes[id] == nil {
			s.removal.add(&node{id: id, recorded: [2]bool{true, true}, lazy: map[string]string{}})
		}
	}
	lost := func(n *node) bool {
		for _, n := range n.chain() {
			if !there[n.id] {
				return true
			}
		}
		return false
	}
	for _, sp := range s.spaces() {
		var gone []*entry
		for _, e := range sp.entries {
			if lost(e.node) {
				gone = append(gone, e)
			}
		}
		if err := sp.lose(ctx, gone, "have vanished"); err != nil {
			return err
		}
	}
	return nil
}

// lose removes names whose files can't be used. d.mu is held.
func (sp *space) lose(ctx context.Context, gone []*entry, why string) error {
	if len(gone) == 0 {
		return nil
	}
	err := sp.db.Update(func(tx *bolt.Tx) error {
		for _, e := range gone {
			if err := tx.Bucket(bucketNames).Delete([]byte(e.name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", sp.db.Path(), err)
	}
	for _, e := range gone {
		log.G(ctx).Warnf("snapshot %s is dropped: its files %s", e.name, why)
		sp.drop(e)
		sp.unref(e.node)
	}
	return nil
}

// dropSpoiled removes the engine's names if they were in use, and so maybe not
// on disk, when the machine went down; crashed says whether it did.
func dropSpoiled(ctx context.Context, root string) (crashed bool, _ error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false, fmt.Errorf("snapshotter: boot id: %w", err)
	}
	mark := filepath.Join(root, "boot")
	last, err := os.ReadFile(mark)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("snapshotter: %w", err)
	}
	if err == nil && string(last) == string(boot) {
		return false, nil
	}
	if crashed = err == nil; crashed {
		log.G(ctx).Warn("the machine went down while the engine's snapshots were in use: they are dropped")
		if err := os.Remove(filepath.Join(root, "engine.db")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, fmt.Errorf("snapshotter: %w", err)
		}
	}
	f, err := os.OpenFile(mark, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return false, fmt.Errorf("snapshotter: %w", err)
	}
	_, err = f.Write(boot)
	return crashed, errors.Join(err, f.Sync(), f.Close())
}

// lockRoot keeps other processes off the directory.
func lockRoot(root string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("snapshotter: %w", err)
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("snapshotter: %s is in use by another process; stop it or choose another root: %w: %w", root, err, errdefs.ErrUnavailable)
		}
	}
}

// Close gives up the directories; nothing stays in the background. Mounts of
// lazy layers stay, unless only this process can use them; see [Lazy].
func (s *Snapshotter) Close() error {
	s.closing.Do(func() { s.closed = s.closeAll() })
	return s.closed
}

func (s *Snapshotter) closeAll() error {
	s.removal.close()
	s.syncing.close()
	var errs []error
	clean := s.space.db != nil && s.engine.db != nil
	if s.own {
		errs = append(errs, s.hide())
	}
	for _, sp := range s.spaces() {
		sp.write.Lock()
		if sp.db != nil {
			errs = append(errs, sp.db.Close())
		}
		sp.write.Unlock()
	}
	if clean && !s.own {
		errs = append(errs, s.markClean())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// hide unmounts all lazy layers. They are mounted again when something is mounted
// on top of them.
func (s *Snapshotter) hide() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var errs []error
	for _, n := range s.nodes {
		if n.lazy != nil && s.lazy != nil {
			errs = append(errs, s.call(context.Background(), s.limits.unmount, func(ctx context.Context) error { return s.lazy.Unmount(ctx, s.fs(n)) }))
		}
	}
	return errors.Join(errs...)
}

// markClean makes what the engine has, and the aliases that aren't on disk yet,
// outlast a crash of the machine from now on. Where that fails the mark stays, so
// that the next start drops them after a crash.
func (s *Snapshotter) markClean() error {
	if s.unsynced() {
		if err := s.syncing.sync(); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(s.root, "boot")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("snapshotter: %w", err)
	}
	return nil
}

// unsynced says whether files of committed snapshots may not be on disk.
func (s *Snapshotter) unsynced() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, sp := range s.spaces() {
		for _, e := range sp.entries {
			if e.unsynced || e.private && e.kind == snapshots.KindCommitted {
				return true
			}
		}
	}
	return false
}
