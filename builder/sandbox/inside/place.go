package inside

import (
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// kind is what a mount point is.
type kind int

const (
	directory kind = iota
	file
	// plainDirectory is one that no symbolic link leads to.
	plainDirectory
)

// open returns a handle of a path in the sandbox. Links of /proc are not followed:
// they could lead to what is open in this process.
func open(target string, resolve uint64) (int, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, target, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: target, Err: err}
	}
	return fd, nil
}

// place returns a handle of the mount point target, which is made if it is absent.
func place(target string, k kind) (int, error) {
	var resolve uint64
	if k == plainDirectory {
		resolve = unix.RESOLVE_NO_SYMLINKS
	}
	fd, err := open(target, resolve)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	dir, err := place(path.Dir(target), directory)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	name := path.Base(target)
	if k == file {
		var f int
		if f, err = unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o755); err == nil {
			unix.Close(f) //nolint:errcheck // nothing was written
		}
	} else {
		err = unix.Mkdirat(dir, name, 0o755)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) { // another sandbox that shares dir may have made it
		return -1, &os.PathError{Op: "make mount point", Path: target, Err: err}
	}
	return open(target, resolve)
}
