package embedded

import (
	"errors"
	"io/fs"
	"os"
	"path"
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
// the files of a snapshot: snapshots-overlayfs/dirs/ID/fs,
// snapshots-fuse-overlayfs/snapshots/ID/fs or snapshots-native/snapshots/ID.
func tree(root, name string) bool {
	rel, err := filepath.Rel(root, name)
	parts := strings.Split(rel, string(filepath.Separator))
	if err != nil || len(parts) < 3 {
		return false
	}
	switch path.Join(parts[0], parts[1]) {
	case "snapshots-overlayfs/dirs", "snapshots-" + fuseOverlayFS + "/snapshots":
		return len(parts) == 4 && parts[3] == "fs"
	case "snapshots-native/snapshots":
		return len(parts) == 3
	}
	return false
}
