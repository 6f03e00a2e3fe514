package layer

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
)

// Files returns a directory with the layer's tree for code of this process that
// only reads it. It is [Store.Mount] without a mount where the tree lies in one
// directory: then nothing stops the caller from writing to it, and the layer
// has to be on a lease until release is called.
func (s *Store) Files(ctx context.Context, l *Layer) (dir string, release func(), err error) {
	if err := context.Cause(ctx); err != nil {
		return "", nil, err
	}
	if l == nil || l.dir == "" {
		return s.Mount(ctx, l)
	}
	if _, err := os.Stat(l.dir); err != nil {
		return s.Mount(ctx, l)
	}
	return l.dir, func() {}, nil
}

// Files returns a directory with the tree for code of this process. It is
// [Workspace.Dir] without a mount where the tree lies in one directory.
func (w *Workspace) Files(ctx context.Context) (string, error) {
	if dir, ok := singleDir(w.tree.mounts); ok && !w.persistent && !w.mounted {
		if w.gone {
			return "", fmt.Errorf("workspace %s has ended: %w", w.tree.key, errdefs.ErrFailedPrecondition)
		}
		return dir, nil
	}
	return w.Dir(ctx)
}

// stays are the snapshotters, beside kiln's own, that leave a tree where it is
// when they commit it.
var stays = map[string]bool{"overlayfs": true, "fuse-overlayfs": true, "native": true}

// committedDir is the directory that has all of the tree once it is committed;
// "" where that isn't known.
func (w *Workspace) committedDir() string {
	dir, ok := singleDir(w.tree.mounts)
	if !ok || w.s.store.Offer == nil && !stays[w.s.store.Snapshotter] {
		return ""
	}
	return dir
}

// singleDir returns the directory of a tree that no mount is needed for.
func singleDir(mounts []mount.Mount) (string, bool) {
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		return "", false
	}
	for _, o := range mounts[0].Options {
		if o != "rw" && o != "rbind" { // a mount that changes what is seen
			return "", false
		}
	}
	return mounts[0].Source, true
}
