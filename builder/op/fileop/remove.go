package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// Remove removes what is at a path, with all that is in it. A link there is
// removed, not followed. A pattern may match nothing. The root can't be
// removed.
func (t *Tree) Remove(a *pb.FileActionRm) error {
	paths := []string{a.GetPath()}
	if a.GetAllowWildcard() {
		var err error
		paths, err = t.glob(a.GetPath(), t.resolveParent)
		if err != nil && !(a.GetAllowNotFound() && isNotFound(err)) {
			return err
		}
	}
	for _, p := range paths {
		if err := t.remove(p); err != nil && !(a.GetAllowNotFound() && isNotFound(err)) {
			return err
		}
	}
	return nil
}

func isNotFound(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

func (t *Tree) remove(p string) error {
	p, err := t.resolveParent(p)
	if err != nil {
		return err
	}
	if p == "" {
		return fmt.Errorf("cannot remove %q: invalid empty path", "/")
	}
	dir, name, err := t.parent(p)
	if err != nil {
		return pathError("rm", p, errno(err))
	}
	defer dir.Close()
	return removeAt(dir, name, p)
}

// removeAt removes an entry of the directory, which must exist; p is its path
// for errors.
func removeAt(dir *os.File, name, p string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		if err != nil {
			return pathError("rm", p, err)
		}
		return nil
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return pathError("rm", p, errno(err))
	}
	defer root.Close()
	if err := root.RemoveAll(name); err != nil {
		return pathError("rm", path.Join(p), errno(err))
	}
	return nil
}
