package snapshotter

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// Prepare implements [snapshots.Snapshotter]. Where the labels name a committed
// snapshot that is wanted (containerd.io/snapshot.ref), and it can be had without
// unpacking, it is made and Prepare fails with errdefs.ErrAlreadyExists.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	e, err := newEntry(snapshots.KindActive, key, parent, opts)
	if err != nil {
		return nil, err
	}
	target := e.labels[snapshots.LabelSnapshotRef]
	if target == "" {
		return s.create(ctx, e)
	}
	wanted, err := newEntry(snapshots.KindCommitted, targetName(key, target), e.parent, []snapshots.Opt{snapshots.WithLabels(e.labels)})
	if err != nil {
		return nil, err
	}
	if id := e.labels[LabelAlias]; id != "" {
		delete(e.labels, LabelAlias)
		delete(wanted.labels, LabelAlias)
		err := s.alias(ctx, id, target, wanted)
		if err == nil || errdefs.IsAlreadyExists(err) {
			return nil, fmt.Errorf("snapshot %q: %w", target, errdefs.ErrAlreadyExists)
		}
		log.G(ctx).WithError(err).Debugf("snapshot %s is no alias", target)
		return s.create(ctx, e)
	}
	if s.lazy == nil {
		return s.create(ctx, e)
	}
	return s.prepareLazy(ctx, e, wanted)
}

// targetName is the name for a wanted snapshot. containerd's names of snapshots
// are NAMESPACE/NUMBER/KEY, and the number is used once, so that the same
// target may be there several times, on different parents or in different
// namespaces. Others get what they ask for.
func targetName(key, target string) string {
	if parts := strings.SplitN(key, "/", 3); len(parts) == 3 {
		return parts[0] + "/" + parts[1] + "/" + target
	}
	return target
}

// ticket allows one directory to be given one name.
type ticket struct {
	node   *node // pinned
	from   string
	target string
}

// Offer lets the committed snapshot get another name in containerd: whoever
// calls containerd's Prepare with the labels that are returned, and with the
// parent on whose directories it stands, gets ErrAlreadyExists and the snapshot
// target, a chain ID. The caller vouches for it that the snapshot is what the
// chain ID says. The namespace and the name are those of containerd; without a
// namespace it is a name of [Private]. withdraw must be called; what has been
// named keeps its name.
func (s *Snapshotter) Offer(namespace, name, target string) (labels map[string]string, withdraw func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var e *entry
	if namespace == "" {
		e, err = s.engine.find(name)
	} else {
		e, err = s.findIn(namespace, name)
	}
	if err == nil && e.kind != snapshots.KindCommitted {
		err = fmt.Errorf("snapshot %q isn't committed: %w", name, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, nil, err
	}
	id := rand.Text()
	e.node.pin()
	s.tickets[id] = ticket{node: e.node, from: e.name, target: target}
	labels = map[string]string{snapshots.LabelSnapshotRef: target, LabelAlias: id}
	return labels, func() { s.withdraw(id) }, nil
}

// Knows says whether containerd has a snapshot of the name in the namespace here.
func (s *Snapshotter) Knows(namespace, name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, err := s.findIn(namespace, name)
	return err == nil
}

func (s *Snapshotter) withdraw(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.tickets[id]; ok {
		delete(s.tickets, id)
		s.unref(t.node)
	}
}

// findIn finds the newest snapshot that containerd knows by the name in the
// namespace; d.mu is held.
func (sp *space) findIn(namespace, name string) (*entry, error) {
	var found *entry
	for full, e := range sp.entries {
		if !strings.HasSuffix(full, name) {
			continue
		}
		parts := strings.SplitN(full, "/", 3)
		if len(parts) == 3 && parts[0] == namespace && parts[2] == name && (found == nil || e.created.After(found.created)) {
			found = e
		}
	}
	if found == nil {
		return nil, fmt.Errorf("snapshot %q of namespace %q: %w", name, namespace, errdefs.ErrNotFound)
	}
	return found, nil
}

// alias gives the directory of a ticket the name of e, which stands on a parent
// with the same directories.
func (s *Snapshotter) alias(ctx context.Context, id, target string, e *entry) error {
	s.mu.Lock()
	t, ok := s.tickets[id]
	if !ok || t.target != target {
		s.mu.Unlock()
		return fmt.Errorf("nothing was offered for %s by that ticket: %w", target, errdefs.ErrPermissionDenied)
	}
	p, err := s.findCommitted(e.parent)
	if err == nil && p.dir() != t.node.parent {
		err = fmt.Errorf("snapshot %q doesn't stand on the directories of %q: %w", t.from, e.parent, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	t.node.pin()
	s.mu.Unlock()
	e.node, e.labels = t.node, maps.Clone(e.labels)
	e.labels[LabelShares] = t.from
	e.unsynced = !s.own
	if err := s.insert(e, t.node.parent); err != nil {
		s.unpin(t.node)
		return err
	}
	if e.unsynced {
		s.syncLater(ctx, e.name)
	}
	return nil
}

// prepareLazy shows the layer that the labels describe, if it can be shown.
// Otherwise e is made, to be filled.
func (s *Snapshotter) prepareLazy(ctx context.Context, e, wanted *entry) ([]mount.Mount, error) {
	below, err := s.pinParent(e)
	if err != nil {
		return nil, err
	}
	defer s.unpin(below)
	if err := s.ready(ctx, below); err != nil {
		return nil, err
	}
	n, err := s.makeDir(ctx, below)
	if err != nil {
		return nil, err
	}
	n.lazy = maps.Clone(e.labels)
	err = s.call(ctx, s.limits.mount, func(ctx context.Context) error { return s.lazy.Mount(ctx, s.fs(n), maps.Clone(n.lazy)) })
	if err != nil {
		if !errdefs.IsNotImplemented(err) {
			log.G(ctx).WithError(err).Infof("snapshot %s can't be had lazily and is unpacked", wanted.name)
		}
		s.unpin(n)
		return s.create(ctx, e)
	}
	if e.parent == "" && e.labels[labelChainParent] != "" {
		// containerd says at Commit what it is put on.
		e.node = n
		if err := s.insert(e, below); err != nil {
			s.unpin(n)
			return nil, err
		}
		return s.mountsOf(e), nil
	}
	wanted.node = n
	if err := s.insert(wanted, below); err != nil {
		s.unpin(n)
		if !errdefs.IsAlreadyExists(err) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("snapshot %q: %w", wanted.name, errdefs.ErrAlreadyExists)
}
