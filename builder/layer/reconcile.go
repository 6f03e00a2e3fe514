package layer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// reconcile removes what an earlier process that used the root left: its
// mounts, the views these stood on, blobs that it was making, and workspaces that nobody can finish now.
func (s *Store) reconcile(ctx context.Context) error {
	dir := filepath.Join(s.root, "mounts")
	if err := mount.UnmountRecursive(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("layer store: unmount what is left below %s: %w", dir, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("layer store: %w", err)
	}
	for _, e := range left {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("layer store: remove what is left: %w", err)
		}
	}
	held, err := s.store.Leases.List(ctx, fmt.Sprintf("labels.%q==%q", LabelStore, s.id))
	if err != nil {
		return fmt.Errorf("layer store: look for leases: %w", err)
	}
	for _, l := range held {
		if err := s.store.Leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("layer store: lease %s that is left: %w", l.ID, err)
		}
	}
	var stale []string
	err = s.store.Snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Labels[labelOwner] == s.id && info.Kind != snapshots.KindCommitted {
			stale = append(stale, info.Name)
		}
		return nil
	}, fmt.Sprintf("labels.%q==%s", labelOwner, s.id))
	if err != nil {
		return fmt.Errorf("layer store: look for unfinished trees: %w", err)
	}
	for _, name := range stale {
		if err := s.store.Snapshots.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("layer store: remove unfinished tree %s: %w", name, err)
		}
	}
	return nil
}
