package changes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
	cfs "github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// ErrIncomplete says that an upper directory refers to the layers below it, so
// that the changes can only be found by [Compare].
var ErrIncomplete = errors.New("the overlay's upper directory isn't complete in itself")

// Upper is the upper directory of an overlay mount that is no longer written.
type Upper struct {
	Dir string
	// Base is the tree that the overlay stood on, "" for the empty tree.
	Base string
	// Xattrs is the prefix of the overlay's own attributes: "trusted.overlay."
	// or, for mounts with the option userxattr, "user.overlay.".
	Xattrs string
}

// Write writes the changes that the upper directory holds; only what changed
// is walked. It may fail with [ErrIncomplete] after it has written something.
//
// The format of the upper directory is in the kernel's
// Documentation/filesystems/overlayfs.rst.
func (u Upper) Write(ctx context.Context, w io.Writer) error {
	cw := archive.NewChangeWriter(cancellable{ctx, w}, u.Dir)
	walk := upperWalk{Upper: u, ctx: ctx, emit: cw.HandleChange}
	opaque, err := walk.inspect("/")
	if err != nil {
		return err
	}
	if err := walk.dir("/", u.Base != "", opaque); err != nil {
		return fmt.Errorf("changes in %s: %w", u.Dir, err)
	}
	return cw.Close()
}

type upperWalk struct {
	Upper
	ctx  context.Context
	emit cfs.ChangeFunc
}

// dir emits the changes below the directory rel, which starts with a slash, in
// the order of their names. merged says that the base has the directory too;
// opaque, that what the base has in it is gone unless it is in the upper
// directory again.
func (u upperWalk) dir(rel string, merged, opaque bool) error {
	if err := context.Cause(u.ctx); err != nil {
		return err
	}
	upper, err := readDir(filepath.Join(u.Dir, rel))
	if err != nil {
		return err
	}
	names := upper
	if merged && opaque {
		base, err := readDir(filepath.Join(u.Base, rel))
		if err != nil {
			return err
		}
		names = slices.Compact(slices.Sorted(slices.Values(append(base, upper...))))
	}
	for _, name := range names {
		if err := u.entry(filepath.Join(rel, name), merged, opaque); err != nil {
			return err
		}
	}
	return nil
}

// entry emits the changes at rel and below.
func (u upperWalk) entry(rel string, merged, opaque bool) error {
	var base fs.FileInfo
	var err error
	if merged {
		if base, err = lstat(filepath.Join(u.Base, rel)); err != nil {
			return err
		}
	}
	upper, err := lstat(filepath.Join(u.Dir, rel))
	if err != nil {
		return err
	}
	if upper == nil || isWhiteout(upper) {
		if base == nil {
			return nil
		}
		return u.emit(cfs.ChangeKindDelete, rel, nil, nil)
	}
	marked, err := u.inspect(rel)
	if err != nil {
		return err
	}
	kind := cfs.ChangeKind(cfs.ChangeKindAdd)
	if base != nil {
		kind = cfs.ChangeKindModify
		equal, err := same(base, upper, filepath.Join(u.Base, rel), filepath.Join(u.Dir, rel))
		if err != nil {
			return err
		}
		if equal {
			kind = cfs.ChangeKindUnmodified // counts as the target of links
		}
	}
	if err := u.emit(kind, rel, upper, nil); err != nil {
		return err
	}
	if !upper.IsDir() {
		return nil
	}
	return u.dir(rel, base != nil && base.IsDir(), opaque || marked)
}

// inspect looks at the overlay's own attributes of a file.
func (u upperWalk) inspect(rel string) (opaque bool, err error) {
	path := filepath.Join(u.Dir, rel)
	var buf [4096]byte
	n, err := unix.Llistxattr(path, buf[:])
	if err == nil && n == 0 || errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	for _, name := range []string{"redirect", "metacopy"} {
		if n, err := unix.Lgetxattr(path, u.Xattrs+name, buf[:]); err == nil || n > 0 {
			return false, fmt.Errorf("%s: %s: %w", rel, name, ErrIncomplete)
		}
	}
	n, err = unix.Lgetxattr(path, u.Xattrs+"opaque", buf[:])
	switch {
	case err == nil:
		return n == 1 && buf[0] == 'y', nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return false, nil
	}
	return false, &fs.PathError{Op: "getxattr", Path: path, Err: err}
}

func isWhiteout(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Mode&syscall.S_IFMT == syscall.S_IFCHR && st.Rdev == 0
}

// lstat returns nil for what doesn't exist.
func lstat(path string) (fs.FileInfo, error) {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return fi, err
}

// readDir returns the sorted names in a directory.
func readDir(path string) ([]string, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}
