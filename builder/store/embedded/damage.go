package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/kiln-build/kiln/builder/boltcheck"
)

// dropDamaged wipes the root where a database is damaged, or is gone while what
// it was about is there: nothing else could tell what of that is whole, or
// would ever remove it.
func dropDamaged(ctx context.Context, root string) error {
	err := whole(filepath.Join(root, "meta.db"), filepath.Join(root, "content", "blobs", "sha256"))
	dirs, gerr := filepath.Glob(filepath.Join(root, "snapshots-*"))
	if gerr != nil {
		return gerr
	}
	for _, dir := range dirs {
		database, trees := filepath.Join(dir, "metadata.db"), filepath.Join(dir, "snapshots")
		if filepath.Base(dir) == "snapshots-overlayfs" {
			database, trees = filepath.Join(dir, "containerd.db"), filepath.Join(dir, "dirs")
		}
		if err == nil {
			err = whole(database, trees)
		}
		if err == nil {
			err = whole(filepath.Join(root, "meta.db"), trees)
		}
	}
	if !errdefs.IsDataLoss(err) {
		return err
	}
	log.G(ctx).WithError(err).Warn("the embedded store is emptied, what was in it has to be built anew")
	return Wipe(root)
}

// whole fails with errdefs.ErrDataLoss where the database is damaged, or isn't
// there and the directory that it is about has something in it.
func whole(database, about string) error {
	err := boltcheck.File(database)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if info, serr := os.Stat(database); serr == nil && info.Size() > 0 {
		return nil
	}
	left, err := os.ReadDir(about)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%s is gone, and %s is not empty: %w", database, about, errdefs.ErrDataLoss)
	}
	return nil
}
