// Package fileop changes file trees as LLB's file actions say: make a file, a
// directory or a link, remove, and copy from one tree to another.
//
// A [Tree] is a directory that is treated as a root: absolute links and ".."
// stay in it, and nothing that an action names can lead out of it. The trees
// may hold anything, but nobody else may change them meanwhile. Errors name
// paths as they are inside the tree.
package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is a directory that is the root of all paths.
type Tree struct{ root *os.File }

// Open opens the directory as a tree. The caller has to close it.
func Open(dir string) (*Tree, error) {
	// Not by package os, which would try to wait for it.
	fd, err := retry(func() (int, error) { return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, fmt.Errorf("opening the tree: %w", pathError("open", dir, err))
	}
	return &Tree{root: os.NewFile(uintptr(fd), dir)}, nil
}

// Close closes the tree's directory.
func (t *Tree) Close() error { return t.root.Close() }

// openAt opens a clean path ("" is the root) that has no links in it.
func (t *Tree) openAt(p string, flags int) (*os.File, error) {
	how := &unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	name := p
	if name == "" {
		name = "."
	}
	fd, err := retry(func() (int, error) { return unix.Openat2(int(t.root.Fd()), name, how) })
	if err != nil {
		return nil, pathError("open", p, err)
	}
	return os.NewFile(uintptr(fd), p), nil
}

func (t *Tree) openDir(p string) (*os.File, error) {
	return t.openAt(p, unix.O_RDONLY|unix.O_DIRECTORY)
}

// parent opens the directory of a clean path, which isn't the root.
func (t *Tree) parent(p string) (dir *os.File, name string, err error) {
	d, name := path.Split(p)
	dir, err = t.openDir(strings.TrimSuffix(d, "/"))
	return dir, name, err
}

// stat describes the entry at a clean path.
func (t *Tree) stat(p string) (unix.Stat_t, error) {
	var st unix.Stat_t
	f, err := t.openAt(p, unix.O_PATH)
	if err != nil {
		return st, pathError("lstat", p, errno(err))
	}
	defer f.Close()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return st, pathError("lstat", p, err)
	}
	return st, nil
}

// maxLinks is how many links one path may lead through.
const maxLinks = 255

// resolve follows the links of a path and gives a clean one without links.
// What does not exist is kept as it is written.
func (t *Tree) resolve(p string) (string, error) {
	at, rest := "", p
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		next := strings.TrimPrefix(path.Join("/", at, name), "/")
		if name == "" || name == "." || name == ".." {
			at = next
			continue
		}
		target, err := t.readlink(next)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EINVAL):
			at = next // nothing, or no link
			continue
		case err != nil:
			return "", err
		}
		if links++; links > maxLinks {
			return "", pathError("resolve", strings.TrimPrefix(path.Clean("/"+p), "/"), unix.ELOOP)
		}
		if path.IsAbs(target) {
			at = ""
		}
		rest = target + "/" + rest
	}
	return at, nil
}

// resolveParent is resolve for all but the last element.
func (t *Tree) resolveParent(p string) (string, error) {
	dir, name := path.Split(path.Join("/", p))
	at, err := t.resolve(dir)
	return path.Join(at, name), err
}

func (t *Tree) readlink(p string) (string, error) {
	dir, name, err := t.parent(p)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	target, err := readlinkAt(int(dir.Fd()), name)
	if err != nil {
		return "", pathError("readlink", p, err)
	}
	return target, nil
}

func readlinkAt(dir int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := retry(func() (int, error) { return unix.Readlinkat(dir, name, b) })
		if err != nil {
			return "", err
		}
		if n < size {
			return string(b[:n]), nil
		}
	}
}

// pathError names a clean path as it is inside the tree.
func pathError(op, p string, err error) error {
	return &fs.PathError{Op: op, Path: path.Join("/", p), Err: err}
}

// errno strips the path around an error.
func errno(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// retry repeats a system call that was interrupted or disturbed by a rename
// somewhere, which does not happen forever.
func retry[T any](f func() (T, error)) (v T, err error) {
	for range 100 {
		if v, err = f(); err != unix.EINTR && err != unix.EAGAIN {
			break
		}
	}
	return v, err
}
