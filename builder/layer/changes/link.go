package changes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

// Link fills the empty directory dir with the same changes, to be the upper
// directory of another overlay with an equal base: files become links to the
// same files, which nobody may write to from then on. dir itself keeps its mode
// and owner, because tars of layers don't have them either. Both must be on the
// same filesystem. After an error dir may hold a part.
func (u Upper) Link(ctx context.Context, dir string) error {
	walk := upperWalk{Upper: u, ctx: ctx}
	if _, err := walk.inspect("/"); err != nil {
		return err
	}
	if err := walk.link("/", dir); err != nil {
		return fmt.Errorf("link the changes in %s: %w", u.Dir, err)
	}
	return nil
}

// link fills the directory target with what is in rel.
func (u upperWalk) link(rel, target string) error {
	if err := context.Cause(u.ctx); err != nil {
		return err
	}
	names, err := readDir(filepath.Join(u.Dir, rel))
	if err != nil {
		return err
	}
	for _, name := range names {
		child, to := filepath.Join(rel, name), filepath.Join(target, name)
		from := filepath.Join(u.Dir, child)
		if _, err := u.inspect(child); err != nil {
			return err
		}
		fi, err := os.Lstat(from)
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			if err := os.Link(from, to); err != nil {
				return err
			}
			continue
		}
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		if err := u.link(child, to); err != nil {
			return err
		}
		if err := copyMeta(fi, from, to); err != nil {
			return err
		}
	}
	return nil
}

// copyMeta gives the directory to what makes up the directory from.
func copyMeta(fi fs.FileInfo, from, to string) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("no owner of %s", from)
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := os.Chmod(to, fi.Mode()); err != nil {
		return err
	}
	names, err := sysx.LListxattr(from)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return &fs.PathError{Op: "listxattr", Path: from, Err: err}
	}
	for _, name := range names {
		value, err := sysx.LGetxattr(from, name)
		if err == nil {
			err = unix.Lsetxattr(to, name, value, 0)
		}
		if err != nil {
			return &fs.PathError{Op: "copy xattr " + name, Path: from, Err: err}
		}
	}
	return os.Chtimes(to, fi.ModTime(), fi.ModTime())
}
