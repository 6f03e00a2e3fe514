package private

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/snapshotter"
)

// snapshotsOf are containerd's snapshots with the private ones.
type snapshotsOf struct {
	snapshots.Snapshotter
	s *space
}

// Prepare implements [snapshots.Snapshotter].
func (sn snapshotsOf) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	info, err := apply(opts)
	if err != nil {
		return nil, err
	}
	private := info.Labels[store.LabelPrivate] != ""
	if !private {
		if _, err := sn.Stat(ctx, key); err == nil { // it may be private or not
			return nil, fmt.Errorf("snapshot %q: %w", key, errdefs.ErrAlreadyExists)
		}
		_, private = sn.s.private(ctx, parent)
	}
	if _, leased := leases.FromContext(ctx); leased && private {
		return sn.s.create(ctx, key, parent, func(on string) ([]mount.Mount, error) { return sn.s.own.Prepare(ctx, key, on, opts...) })
	}
	if err := sn.s.handOverFor(ctx); err != nil {
		return nil, err
	}
	return sn.Snapshotter.Prepare(ctx, key, parent, opts...)
}

// View implements [snapshots.Snapshotter].
func (sn snapshotsOf) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if _, leased := leases.FromContext(ctx); leased {
		return sn.s.create(ctx, key, parent, func(on string) ([]mount.Mount, error) { return sn.s.own.View(ctx, key, on, opts...) })
	}
	return sn.Snapshotter.View(ctx, key, parent, opts...)
}

func apply(opts []snapshots.Opt) (info snapshots.Info, err error) {
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return info, err
		}
	}
	return info, nil
}

// create makes a private snapshot on the parent, on the lease that ctx carries.
func (s *space) create(ctx context.Context, key, parent string, create func(on string) ([]mount.Mount, error)) ([]mount.Mount, error) {
	defer s.pin(parent)()
	on, err := s.standOn(ctx, parent)
	if err != nil {
		return nil, err
	}
	id, _ := leases.FromContext(ctx)
	added, err := s.hold(ctx, id, key)
	if err != nil {
		return nil, err
	}
	mounts, err := create(on)
	if err != nil && added {
		s.release(id, key)
	}
	return mounts, err
}

// standOn returns the private name of what something is to stand on, which is
// pinned. One of containerd's gets one.
func (s *space) standOn(ctx context.Context, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	if _, ok := s.private(ctx, name); ok {
		return name, nil
	}
	if err := s.need(ctx, s.resource(name)); err != nil {
		return "", err
	}
	s.mu.Lock() // a sweep removes names one at a time under it
	defer s.mu.Unlock()
	return s.sn.Keep(ctx, s.under.Namespace, name)
}

// pin keeps a sweep from removing a private snapshot, or from needing something of
// containerd's no more.
func (s *space) pin(id string) (unpin func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[id]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.pins[id]--; s.pins[id] == 0 {
			delete(s.pins, id)
		}
	}
}

// Commit implements [snapshots.Snapshotter].
func (sn snapshotsOf) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	s := sn.s
	if _, ok := s.private(ctx, key); !ok {
		if err := s.handOverFor(ctx); err != nil {
			return err
		}
		return sn.Snapshotter.Commit(ctx, name, key, opts...)
	}
	id, leased := leases.FromContext(ctx)
	added := false
	if leased {
		var err error
		if added, err = s.hold(ctx, id, name); err != nil {
			return err
		}
	}
	if err := s.own.Commit(ctx, name, key, opts...); err != nil {
		if added {
			s.release(id, name)
		}
		return err
	}
	if leased {
		s.release(id, key)
	}
	return nil
}

// Stat implements [snapshots.Snapshotter].
func (sn snapshotsOf) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	if info, ok := sn.s.private(ctx, key); ok {
		return public(info), nil
	}
	return sn.Snapshotter.Stat(ctx, key)
}

// public gives a snapshot that stands on one of containerd's the name of that.
func public(info snapshots.Info) snapshots.Info {
	if name, ok := snapshotter.Kept(info.Parent); ok {
		info.Parent = name
	}
	return info
}

// Mounts implements [snapshots.Snapshotter].
func (sn snapshotsOf) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	if _, ok := sn.s.private(ctx, key); ok {
		return sn.s.own.Mounts(ctx, key)
	}
	return sn.Snapshotter.Mounts(ctx, key)
}

// Usage implements [snapshots.Snapshotter].
func (sn snapshotsOf) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	if _, ok := sn.s.private(ctx, key); ok {
		return sn.s.own.Usage(ctx, key)
	}
	return sn.Snapshotter.Usage(ctx, key)
}

// Update implements [snapshots.Snapshotter].
func (sn snapshotsOf) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	s := sn.s
	old, ok := s.private(ctx, info.Name)
	if !ok {
		return sn.Snapshotter.Update(ctx, info, fieldpaths...)
	}
	for _, r := range s.references(info.Labels) {
		if r.Type != contentType {
			continue
		}
		defer s.pin(r.ID)()
		if err := s.need(ctx, r); err != nil {
			return snapshots.Info{}, err
		}
	}
	updated, err := s.own.Update(ctx, info, fieldpaths...)
	if len(s.references(old.Labels)) > 0 { // it may need less now
		s.sweeper.want()
	}
	return public(updated), err
}

// Remove implements [snapshots.Snapshotter].
func (sn snapshotsOf) Remove(ctx context.Context, key string) error {
	s := sn.s
	err := s.own.Remove(ctx, key)
	if errdefs.IsNotFound(err) {
		return sn.Snapshotter.Remove(ctx, key)
	}
	if id, leased := leases.FromContext(ctx); leased && err == nil {
		s.release(id, key)
	}
	return err
}

// Walk implements [snapshots.Snapshotter].
func (sn snapshotsOf) Walk(ctx context.Context, fn snapshots.WalkFunc, fields ...string) error {
	return errors.Join(sn.s.own.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		if _, ok := snapshotter.Kept(info.Name); ok {
			return nil
		}
		return fn(ctx, public(info))
	}, fields...), sn.Snapshotter.Walk(ctx, fn, fields...))
}
