package private

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/store"
)

// snapshotter is containerd's with the private snapshots.
type snapshotter struct {
	snapshots.Snapshotter
	s *space
}

// Prepare implements [snapshots.Snapshotter].
func (sn snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	info, err := apply(opts)
	if err != nil {
		return nil, err
	}
	id, leased := leases.FromContext(ctx)
	if leased && parent == "" && info.Labels[store.LabelPrivate] != "" {
		return sn.s.prepare(ctx, key, id, info.Labels)
	}
	if err := sn.s.settle(ctx, parent); err != nil {
		return nil, err
	}
	if err := sn.s.handOver(ctx); err != nil {
		return nil, err
	}
	return sn.Snapshotter.Prepare(ctx, key, parent, opts...)
}

func apply(opts []snapshots.Opt) (info snapshots.Info, err error) {
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return info, err
		}
	}
	return info, nil
}

func (s *space) prepare(ctx context.Context, key, id string, labels map[string]string) ([]mount.Mount, error) {
	t := &tree{Dir: strings.ToLower(rand.Text()), Lease: id, Working: labels, Created: time.Now().UTC()}
	err := os.Mkdir(s.dir(t), 0o755)
	if err == nil {
		err = os.Chmod(s.dir(t), 0o755) // whatever the umask is
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	taken := s.active[key] != nil
	if !taken {
		s.active[key] = t
	}
	s.mu.Unlock()
	if taken {
		return nil, errors.Join(fmt.Errorf("snapshot %q: %w", key, errdefs.ErrAlreadyExists), os.Remove(s.dir(t)))
	}
	// Only now: a lease that is deleted later takes the tree with it.
	if err := s.leased(ctx, id); err != nil {
		if s.finish(key, t) {
			err = errors.Join(err, os.Remove(s.dir(t)))
		}
		return nil, err
	}
	return s.mounts(t), nil
}

// finish takes an unfinished snapshot away; false if somebody else has.
func (s *space) finish(key string, t *tree) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[key] != t {
		return false
	}
	delete(s.active, key)
	return true
}

func (s *space) mounts(t *tree) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: s.dir(t), Options: []string{"rw", "rbind"}}}
}

// View implements [snapshots.Snapshotter].
func (sn snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if err := sn.s.settle(ctx, parent); err != nil {
		return nil, err
	}
	if err := sn.s.handOver(ctx); err != nil {
		return nil, err
	}
	return sn.Snapshotter.View(ctx, key, parent, opts...)
}

// Mounts implements [snapshots.Snapshotter].
func (sn snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	if t := sn.s.working(key); t != nil {
		return sn.s.mounts(t), nil
	}
	return sn.Snapshotter.Mounts(ctx, key)
}

// Commit implements [snapshots.Snapshotter].
func (sn snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	info, err := apply(opts)
	if err != nil {
		return err
	}
	s := sn.s
	t := s.working(key)
	if t == nil || info.Parent != "" {
		return s.commitUnder(ctx, name, key, opts)
	}
	done := *t
	done.Labels, done.Created = info.Labels, time.Now().UTC()
	if err := s.commit(name, key, t, done); err != nil {
		return err
	}
	if refers(info.Labels) {
		return s.settle(ctx, name)
	}
	return nil
}

// commit makes a finished snapshot of an unfinished one, unless that was removed
// meanwhile, by itself or with its lease.
func (s *space) commit(name, key string, t *tree, done tree) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[key] != t {
		return fmt.Errorf("snapshot %q: %w", key, errdefs.ErrNotFound)
	}
	if _, exists, err := s.committed(name); err != nil {
		return err
	} else if exists {
		return fmt.Errorf("snapshot %q: %w", name, errdefs.ErrAlreadyExists)
	}
	s.keep(name, done)
	delete(s.active, key)
	return nil
}

// refers says whether labels tell containerd's collector something.
func refers(labels map[string]string) bool {
	for k := range labels {
		if strings.HasPrefix(k, "containerd.io/gc.") {
			return true
		}
	}
	return false
}

func (s *space) commitUnder(ctx context.Context, name, key string, opts []snapshots.Opt) error {
	if err := s.handOver(ctx); err != nil {
		return err
	}
	return s.under.Snapshots.Commit(ctx, name, key, opts...)
}

// Stat implements [snapshots.Snapshotter].
func (sn snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	if t := sn.s.working(key); t != nil {
		return infoOf(key, *t, snapshots.KindActive), nil
	}
	if t, ok, err := sn.s.committed(key); ok || err != nil {
		return infoOf(key, t, snapshots.KindCommitted), err
	}
	return sn.Snapshotter.Stat(ctx, key)
}

func infoOf(name string, t tree, kind snapshots.Kind) snapshots.Info {
	labels := t.Labels
	if kind == snapshots.KindActive {
		labels = t.Working
	}
	return snapshots.Info{Kind: kind, Name: name, Labels: labels, Created: t.Created, Updated: t.Created}
}

// Usage implements [snapshots.Snapshotter].
func (sn snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	s := sn.s
	if t := s.working(key); t != nil {
		u, err := fs.DiskUsage(ctx, s.dir(t))
		return snapshots.Usage(u), err
	}
	t, ok, err := s.committed(key)
	switch {
	case err != nil:
		return snapshots.Usage{}, err
	case !ok:
		return sn.Snapshotter.Usage(ctx, key)
	case t.Size > 0:
		return snapshots.Usage{Size: t.Size, Inodes: t.Inodes}, nil
	}
	u, err := fs.DiskUsage(ctx, s.dir(&t))
	if errors.Is(err, os.ErrNotExist) { // it was settled, or is just now
		s.handing.Lock()
		defer s.handing.Unlock()
		return sn.Snapshotter.Usage(ctx, key)
	}
	if err == nil {
		s.noteSize(key, u)
	}
	return snapshots.Usage(u), err
}

func (s *space) noteSize(name string, u fs.Usage) {
	s.handing.Lock()
	defer s.handing.Unlock()
	if t, ok, err := s.committed(name); ok && err == nil {
		t.Size, t.Inodes = u.Size, u.Inodes
		put(&s.journal, treeKey(name), t)
	}
}

// Update implements [snapshots.Snapshotter].
func (sn snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	if err := sn.s.settle(ctx, info.Name); err != nil {
		return snapshots.Info{}, err
	}
	return sn.Snapshotter.Update(ctx, info, fieldpaths...)
}

// Remove implements [snapshots.Snapshotter].
func (sn snapshotter) Remove(ctx context.Context, key string) error {
	s := sn.s
	if t := s.working(key); t != nil && s.finish(key, t) {
		return os.RemoveAll(s.dir(t))
	}
	s.handing.Lock()
	done, ok, err := s.committed(key)
	if ok {
		s.drop(key, done)
	}
	s.handing.Unlock()
	if ok || err != nil {
		return err
	}
	return sn.Snapshotter.Remove(ctx, key)
}

// Walk implements [snapshots.Snapshotter].
func (sn snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, fields ...string) error {
	filter, err := filters.ParseAll(fields...)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	// What is settled between the two is never missed, and shown once.
	shown := map[string]bool{}
	var found []snapshots.Info
	s := sn.s
	s.mu.Lock()
	for key, t := range s.active {
		found = append(found, infoOf(key, *t, snapshots.KindActive))
	}
	s.mu.Unlock()
	err = scan(&s.journal, treeKey(""), func(name string, t tree) error {
		found = append(found, infoOf(name, t, snapshots.KindCommitted))
		return nil
	})
	if err != nil {
		return err
	}
	err = sn.Snapshotter.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		shown[info.Name] = true
		return fn(ctx, info)
	}, fields...)
	if err != nil {
		return err
	}
	for _, info := range found {
		if !shown[info.Name] && filter.Match(adaptSnapshot(info)) {
			if err := fn(ctx, info); err != nil {
				return err
			}
		}
	}
	return nil
}

// adaptSnapshot shows a snapshot to filters, with the fields that containerd's have.
func adaptSnapshot(info snapshots.Info) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch path[0] {
		case "kind":
			return strings.ToLower(info.Kind.String()), true
		case "name":
			return info.Name, true
		case "labels":
			return label(info.Labels, path[1:])
		}
		return "", false
	})
}
