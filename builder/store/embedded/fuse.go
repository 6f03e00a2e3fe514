package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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

// fuseWorks tells why fuse-overlayfs is not to be chosen for trees below dir.
func fuseWorks(dir string) error {
	if err := fuseoverlayfs.Supported(dir); err != nil {
		return err
	}
	return truthful(dir)
}

// truthful fails where the program brings back what was in a directory, once that
// is removed, made anew and renamed: version 1.10 does, and images would be wrong.
func truthful(dir string) (err error) {
	at, err := os.MkdirTemp(dir, "fuseoverlayfs-check")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(at)) }()
	path := func(elements ...string) string { return filepath.Join(append([]string{at}, elements...)...) }
	for _, name := range []string{path("lower", "d", "old"), path("upper"), path("work"), path("merged")} {
		if err := os.MkdirAll(name, 0o700); err != nil {
			return err
		}
	}
	m := mount.Mount{Type: "fuse3.fuse-overlayfs", Source: "overlay", Options: []string{
		"lowerdir=" + path("lower"), "upperdir=" + path("upper"), "workdir=" + path("work"),
	}}
	if err := m.Mount(path("merged")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.UnmountAll(path("merged"), 0)) }()
	d, e := path("merged", "d"), path("merged", "e")
	if err := errors.Join(os.RemoveAll(d), os.Mkdir(d, 0o700), os.Rename(d, e)); err != nil {
		return err
	}
	for _, name := range []string{filepath.Join(e, "old"), d} {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return errors.New("this version of fuse-overlayfs brings back what was removed: install a newer one")
		}
	}
	return nil
}
