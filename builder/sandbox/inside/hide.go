package inside

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// absent tells whether there is nothing at a path.
func absent(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// makeReadonly mounts what is at target on itself, read-only.
func makeReadonly(target string) error {
	at, err := open(target, 0)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	tree, err := clone(at)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := setAttr(tree, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, unix.AT_RECURSIVE); err != nil {
		return err
	}
	return move(tree, at)
}

// clone makes another mount of what a handle shows.
func clone(of int) (int, error) {
	fd, err := unix.OpenTree(of, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	return fd, os.NewSyscallError("open_tree", err)
}

// mask puts /dev/null in the place of files, and an empty directory in that of
// directories.
func mask(targets []string) error {
	if len(targets) == 0 {
		return nil
	}
	null, err := openNull()
	if err != nil {
		return err
	}
	defer unix.Close(null)
	empty := -1
	for _, target := range targets {
		at, err := open(target, 0)
		if absent(err) {
			continue
		}
		if err != nil {
			return err
		}
		if empty, err = cover(at, null, empty); err != nil {
			return fmt.Errorf("mask %s: %w", target, err)
		}
	}
	if empty >= 0 {
		unix.Close(empty) //nolint:errcheck // it is mounted
	}
	return nil
}

// cover closes at. It returns the filesystem of empty directories, which it makes
// when it is needed first.
func cover(at, null, empty int) (int, error) {
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return empty, os.NewSyscallError("fstat", err)
	}
	over := null
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if empty < 0 {
			var err error
			if empty, err = filesystem("tmpfs", "tmpfs", []string{"nr_blocks=1", "nr_inodes=1"}, unix.MOUNT_ATTR_RDONLY); err != nil {
				return empty, err
			}
			return empty, move(empty, at)
		}
		over = empty
	}
	tree, err := clone(over)
	if err != nil {
		return empty, err
	}
	defer unix.Close(tree)
	return empty, move(tree, at)
}

// openNull returns a handle of /dev/null, if it is the null device.
func openNull() (int, error) {
	fd, err := open("/dev/null", unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		unix.Close(fd) //nolint:errcheck // nothing was written
		return -1, errors.New("/dev/null is not the null device")
	}
	return fd, nil
}

// make makes the device node.
func (d *Device) make() error {
	dir, err := place(path.Dir(d.Path), directory)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := path.Base(d.Path)
	err = unix.Mknodat(dir, name, d.Mode, int(d.Dev))
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Rdev == d.Dev && st.Mode&unix.S_IFMT == d.Mode&unix.S_IFMT {
			return nil
		}
	}
	if err != nil {
		return os.NewSyscallError("mknod", err)
	}
	return os.NewSyscallError("chown", unix.Fchownat(dir, name, d.UID, d.GID, unix.AT_SYMLINK_NOFOLLOW))
}
