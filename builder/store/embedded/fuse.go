package embedded

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	fuseoverlayfs "github.com/containerd/fuse-overlayfs-snapshotter/v2"
)

// fuseOverlayFS names the snapshotter whose trees the program fuse-overlayfs
// shows, for kernels whose overlayfs isn't for ordinary users (before Linux
// 5.11), and filesystems that it can't write to.
const fuseOverlayFS = "fuse-overlayfs"

// fuseSnapshotter is containerd's for fuse-overlayfs.
type fuseSnapshotter struct {
	snapshots.Snapshotter
	snapshots.Cleaner
}

func openFUSE(dir string) (string, snapshots.Snapshotter, error) {
	// Removal is left to the collector, as overlayfs's is.
	sn, err := fuseoverlayfs.NewSnapshotter(dir, fuseoverlayfs.AsynchronousRemove)
	if err != nil {
		return "", nil, fmt.Errorf("embedded store: fuse-overlayfs: %w", err)
	}
	cleaner, ok := sn.(snapshots.Cleaner)
	if !ok {
		return "", nil, fmt.Errorf("embedded store: fuse-overlayfs: %T removes nothing", sn)
	}
	return fuseOverlayFS, fuseSnapshotter{sn, cleaner}, nil
}

// Mounts implements [snapshots.Snapshotter]. The library's never ends its
// transaction where there is no such snapshot, and Close would wait for it.
func (sn fuseSnapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	if _, err := sn.Stat(ctx, key); err != nil {
		return nil, err
	}
	return sn.Snapshotter.Mounts(ctx, key)
}
