package changes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

// Merge fills the empty directory dir with the changes of several upper
// directories, each on the one before, as the upper directory of one overlay on
// the base of the first. As with [Upper.Link], files become links, which nobody
// may write to, and dir may hold a part after an error. The root gets what the
// last one's is.
func Merge(ctx context.Context, dir string, uppers []Upper) error {
	for _, u := range uppers {
		m := merging{upperWalk{Upper: u, ctx: ctx}, dir}
		if err := m.directory("/"); err != nil {
			return fmt.Errorf("merge the changes in %s: %w", u.Dir, err)
		}
	}
	return nil
}

// merging adds the changes of one upper directory to dir.
type merging struct {
	upperWalk
	dir string
}

// directory merges the directory rel, which exists in both.
func (m merging) directory(rel string) error {
	if err := context.Cause(m.ctx); err != nil {
		return err
	}
	from, to := filepath.Join(m.Dir, rel), filepath.Join(m.dir, rel)
	names, err := readDir(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := m.entry(filepath.Join(rel, name)); err != nil {
			return err
		}
	}
	fi, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if err := m.dropXattrs(from, to); err != nil {
		return err
	}
	return copyMeta(fi, from, to)
}

// entry puts what is in the upper directory at rel over what is there.
func (m merging) entry(rel string) error {
	from, to := filepath.Join(m.Dir, rel), filepath.Join(m.dir, rel)
	opaque, err := m.inspect(rel)
	if err != nil {
		return err
	}
	fi, err := os.Lstat(from)
	if err != nil {
		return err
	}
	below, err := lstat(to)
	if err != nil {
		return err
	}
	replaced := below != nil && (opaque || !fi.IsDir() || !below.IsDir())
	if replaced {
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
	if !fi.IsDir() {
		return os.Link(from, to)
	}
	if below == nil || replaced {
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
	}
	if err := m.directory(rel); err != nil {
		return err
	}
	if replaced { // what is further below is hidden, as it was
		return unix.Lsetxattr(to, m.Xattrs+"opaque", []byte("y"), 0)
	}
	return nil
}

// dropXattrs removes the attributes that the upper one of two merged
// directories doesn't have, but for the overlay's own.
func (m merging) dropXattrs(from, to string) error {
	had, err := sysx.LListxattr(to)
	if errors.Is(err, unix.ENOTSUP) || len(had) == 0 {
		return nil
	}
	has, herr := sysx.LListxattr(from)
	if err := errors.Join(err, herr); err != nil {
		return &fs.PathError{Op: "listxattr", Path: to, Err: err}
	}
	for _, name := range had {
		if slices.Contains(has, name) || strings.HasPrefix(name, m.Xattrs) {
			continue
		}
		if err := unix.Lremovexattr(to, name); err != nil {
			return &fs.PathError{Op: "remove xattr " + name, Path: to, Err: err}
		}
	}
	return nil
}
