package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	fuseoverlayfs "github.com/containerd/fuse-overlayfs-snapshotter/v2"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/snapshotter"
)

// openSnapshotter returns the snapshotter that cfg asks for, with its name.
func openSnapshotter(ctx context.Context, cfg Config) (string, snapshots.Snapshotter, error) {
	dir := func(name string) string { return filepath.Join(cfg.Root, "snapshots-"+name) }
	switch cfg.Snapshotter {
	case "", "auto":
		err := overlayutils.Supported(dir("overlayfs"))
		if err == nil {
			return openOverlay(ctx, dir("overlayfs"), cfg.Lazy)
		}
		os.Remove(dir("overlayfs"))
		ferr := fuseWorks(dir(fuseOverlayFS))
		if ferr == nil {
			log.G(ctx).WithError(err).Infof("overlayfs doesn't work below %s; the program fuse-overlayfs shows the trees", cfg.Root)
			return openFUSE(dir(fuseOverlayFS))
		}
		os.Remove(dir(fuseOverlayFS))
		log.G(ctx).WithError(errors.Join(err, ferr)).Warnf("neither overlayfs nor fuse-overlayfs works below %s; trees are copied in full", cfg.Root)
		return openNative(dir("native"))
	case "overlayfs":
		if err := overlayutils.Supported(dir("overlayfs")); err != nil {
			return "", nil, fmt.Errorf("embedded store: overlayfs doesn't work below %s "+
				"(choose another filesystem for the root, or the snapshotter \"native\"): %w", cfg.Root, err)
		}
		return openOverlay(ctx, dir("overlayfs"), cfg.Lazy)
	case fuseOverlayFS:
		if err := fuseoverlayfs.Supported(dir(fuseOverlayFS)); err != nil {
			return "", nil, fmt.Errorf("embedded store: fuse-overlayfs doesn't work below %s (it takes the programs fuse-overlayfs and "+
				"mount.fuse3, and a /dev/fuse that can be opened; or choose the snapshotter \"native\"): %w", cfg.Root, err)
		}
		if err := truthful(dir(fuseOverlayFS)); err != nil {
			log.G(ctx).WithError(err).Warn("trees may become wrong; the snapshotter \"native\" makes right ones")
		}
		return openFUSE(dir(fuseOverlayFS))
	case "native":
		return openNative(dir("native"))
	}
	return "", nil, fmt.Errorf("embedded store: no snapshotter %q: have overlayfs, fuse-overlayfs, native and auto", cfg.Snapshotter)
}

// dropProbes removes what a process left that was killed while it tried out
// whether overlays can be mounted.
func dropProbes(root string) error {
	var left []string
	for _, probe := range []string{"multiple-lowerdir-check*", "fuseoverlayfs-check*"} {
		found, err := filepath.Glob(filepath.Join(root, "snapshots-*", probe))
		if err != nil {
			return err
		}
		left = append(left, found...)
	}
	for _, dir := range left {
		if err := mount.UnmountAll(filepath.Join(dir, "merged"), unix.MNT_DETACH); err != nil {
			return fmt.Errorf("embedded store: %w", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("embedded store: %w", err)
		}
	}
	return nil
}

func openOverlay(ctx context.Context, dir string, lazy snapshotter.Lazy) (string, snapshots.Snapshotter, error) {
	sn, err := snapshotter.Open(ctx, snapshotter.Config{Root: dir, Lazy: lazy, Own: true})
	if err != nil {
		return "", nil, fmt.Errorf("embedded store: %w", err)
	}
	return "overlayfs", sn, nil
}

func openNative(dir string) (string, snapshots.Snapshotter, error) {
	sn, err := native.NewSnapshotter(dir)
	if err != nil {
		return "", nil, fmt.Errorf("embedded store: native: %w", err)
	}
	return "native", sn, nil
}
