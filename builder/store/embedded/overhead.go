package embedded

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// overhead is how many bytes on disk there are below the root that belong
// neither to a blob nor to the tree of a snapshot. What vanishes meanwhile
// doesn't count.
func overhead(root string) (int64, error) {
	var bytes int64
	blobs := filepath.Join(root, "content", "blobs")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if filepath.Dir(filepath.Dir(path)) == blobs {
			return nil
		}
		if tree(root, path) {
			return filepath.SkipDir
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += st.Blocks * 512
		}
		return nil
	})
	return bytes, err
}

// tree says whether a path is the directory in which a snapshotter of ours has
// the files of a snapshot: snapshots-overlayfs/snapshots/ID/fs, the same of
// fuse-overlayfs, snapshots-native/snapshots/ID or private/trees/ID.
func tree(root, path string) bool {
	rel, err := filepath.Rel(root, path)
	parts := strings.Split(rel, string(filepath.Separator))
	if err != nil || len(parts) < 3 {
		return false
	}
	if parts[0] == "private" {
		return parts[1] == "trees" && len(parts) == 3
	}
	if parts[1] != "snapshots" {
		return false
	}
	switch parts[0] {
	case "snapshots-overlayfs", "snapshots-" + fuseOverlayFS:
		return len(parts) == 4 && parts[3] == "fs"
	case "snapshots-native":
		return len(parts) == 3
	}
	return false
}
