package snapshotter

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// Prepare implements [snapshots.Snapshotter].
func (sp *space) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	e, err := newEntry(snapshots.KindActive, key, parent, opts)
	if err != nil {
		return nil, err
	}
	return sp.create(ctx, e)
}

// View implements [snapshots.Snapshotter]. A view has no directory of its own.
func (sp *space) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	e, err := newEntry(snapshots.KindView, key, parent, opts)
	if err != nil {
		return nil, err
	}
	return sp.create(ctx, e)
}

// create makes a new active snapshot or view.
func (sp *space) create(ctx context.Context, e *entry) ([]mount.Mount, error) {
	below, err := sp.pinParent(e)
	if err != nil {
		return nil, err
	}
	if err := sp.ready(ctx, below); err != nil {
		sp.unpin(below)
		return nil, err
	}
	e.node = below
	if e.kind == snapshots.KindActive {
		e.node, err = sp.makeDir(ctx, below)
		sp.unpin(below)
		if err != nil {
			return nil, err
		}
		if e.overlaid() {
			err = os.Mkdir(sp.work(e.node), 0o711)
		}
		if err != nil {
			sp.unpin(e.node)
			return nil, fmt.Errorf("make a snapshot's directory: %w", err)
		}
	}
	if err := sp.insert(e, below); err != nil {
		sp.unpin(e.node)
		return nil, err
	}
	return sp.mountsOf(e), nil
}

// overlaid says whether an active snapshot is mounted as an overlay: one on nothing
// is where it is going to be put on something at Commit, so that its whiteouts have
// to be overlayfs's.
func (e *entry) overlaid() bool {
	return e.node.parent != nil || e.labels[labelChainParent] != ""
}

// pinParent returns the directory that e is to stand on, and keeps it; nil for
// none.
func (sp *space) pinParent(e *entry) (*node, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.entries[e.name] != nil {
		return nil, fmt.Errorf("snapshot %q: %w", e.name, errdefs.ErrAlreadyExists)
	}
	p, err := sp.findCommitted(e.parent)
	if err != nil {
		return nil, err
	}
	p.dir().pin()
	return p.dir(), nil
}

// insert adds a new entry to the space if nobody has taken its name and its
// parent still leads to the directory below.
func (sp *space) insert(e *entry, below *node) error {
	sp.write.Lock()
	defer sp.write.Unlock()
	sp.mu.RLock()
	taken := sp.entries[e.name] != nil
	p, err := sp.findCommitted(e.parent)
	sp.mu.RUnlock()
	switch {
	case taken:
		return fmt.Errorf("snapshot %q: %w", e.name, errdefs.ErrAlreadyExists)
	case err != nil:
		return err
	case p.dir() != below:
		return fmt.Errorf("parent snapshot %q was replaced: %w", e.parent, errdefs.ErrNotFound)
	}
	if err := sp.put(e); err != nil {
		return err
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.add(e)
	return nil
}

// Commit implements [snapshots.Snapshotter]. A snapshot that was prepared on
// nothing may be given its parent here.
func (sp *space) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	e, err := newEntry(snapshots.KindCommitted, name, "", opts)
	if err != nil {
		return err
	}
	usage, err := sp.measureActive(ctx, key)
	if err != nil {
		return err
	}
	sp.write.Lock()
	defer sp.write.Unlock()
	old, below, err := sp.decideCommit(e, key)
	if err != nil {
		return err
	}
	// Nobody else looks at what is below an active snapshot's directory, or how
	// large it is, without the lock that is held.
	sp.mu.Lock()
	n, wasBelow := old.node, old.node.parent
	n.parent, n.usage = below, usage
	e.node = n
	sp.mu.Unlock()
	err = sp.update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(bucketNames).Delete([]byte(key)); err != nil {
			return err
		}
		return sp.putEntry(tx, e)
	})
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if err != nil {
		n.parent, n.usage = wasBelow, nil
		return fmt.Errorf("commit snapshot %q: %w", key, err)
	}
	if wasBelow != below {
		below.pin()
	}
	sp.drop(old)
	sp.add(e)
	return nil
}

// decideCommit finds what is to be committed as e and on what; it completes e.
// sp.write is held.
func (sp *space) decideCommit(e *entry, key string) (old *entry, below *node, err error) {
	sp.mu.RLock()
	defer sp.mu.RUnlock()
	if sp.entries[e.name] != nil {
		return nil, nil, fmt.Errorf("snapshot %q: %w", e.name, errdefs.ErrAlreadyExists)
	}
	if old, err = sp.find(key); err != nil {
		return nil, nil, err
	}
	if old.kind != snapshots.KindActive {
		return nil, nil, fmt.Errorf("snapshot %q isn't active: %w", key, errdefs.ErrFailedPrecondition)
	}
	if e.parent == "" || e.parent == old.parent {
		e.parent = old.parent
		return old, old.node.parent, nil
	}
	if old.parent != "" {
		return nil, nil, fmt.Errorf("snapshot %q stands on %q and can't be put on %q: %w", key, old.parent, e.parent, errdefs.ErrInvalidArgument)
	}
	p, err := sp.findCommitted(e.parent)
	if err != nil {
		return nil, nil, err
	}
	return old, p.dir(), nil
}

// measureActive measures an active snapshot of containerd's. Those of the
// engine are measured when somebody asks: that may take longer than the rest of
// Commit.
func (sp *space) measureActive(ctx context.Context, key string) (*snapshots.Usage, error) {
	sp.mu.RLock()
	e, err := sp.find(key)
	sp.mu.RUnlock()
	if err != nil || sp.which == private || e.kind != snapshots.KindActive || e.node.lazy != nil {
		return nil, err
	}
	u, err := sp.measure(ctx, e.node)
	return &u, err
}

// Remove implements [snapshots.Snapshotter]. The directory, if no other name
// leads to it, goes in the background.
func (sp *space) Remove(_ context.Context, key string) error {
	sp.write.Lock()
	defer sp.write.Unlock()
	sp.mu.RLock()
	e, err := sp.find(key)
	if err == nil && e.children > 0 {
		err = fmt.Errorf("remove snapshot %q: it has %d others on top: %w", key, e.children, errdefs.ErrFailedPrecondition)
	}
	sp.mu.RUnlock()
	if err != nil {
		return err
	}
	if !e.transient() {
		err = sp.update(func(tx *bolt.Tx) error { return tx.Bucket(bucketNames).Delete([]byte(key)) })
		if err != nil {
			return fmt.Errorf("remove snapshot %q: %w", key, err)
		}
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.drop(e)
	sp.unref(e.node)
	return nil
}

// Update implements [snapshots.Snapshotter]: it changes labels.
func (sp *space) Update(_ context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	sp.write.Lock()
	defer sp.write.Unlock()
	sp.mu.RLock()
	e, err := sp.find(info.Name)
	sp.mu.RUnlock()
	if err != nil {
		return snapshots.Info{}, err
	}
	changed := *e
	if changed.labels, err = updateLabels(e, info.Labels, fieldpaths); err != nil {
		return snapshots.Info{}, err
	}
	if e.labels[LabelTransient] != changed.labels[LabelTransient] {
		return snapshots.Info{}, fmt.Errorf("update snapshot %q: label %s can't be changed: %w", info.Name, LabelTransient, errdefs.ErrInvalidArgument)
	}
	changed.updated = time.Now().UTC()
	if err := sp.put(&changed); err != nil {
		return snapshots.Info{}, fmt.Errorf("update snapshot %q: %w", info.Name, err)
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	e.labels, e.updated = changed.labels, changed.updated
	return e.info(), nil
}
