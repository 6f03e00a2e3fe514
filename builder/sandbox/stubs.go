package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stubs are the files and directories that had to be made in a tree as mount
// points, and that must not stay in it. Each is held by a handle on its parent
// directory, so that removing it follows no path: a process that moved the parent
// or put a link in its place gains nothing.
type stubs struct {
	tree  *tree
	made  []stub
	dirs  map[string]*parentDir
	hides []string // resolved targets of the mounts so far: what lies below is not the tree's
}

type stub struct {
	parent *parentDir
	name   string
	info   fs.FileInfo
	keep   bool
}

// parentDir is a directory in which stubs were made. Its times are put back if
// nobody but us changed it.
type parentDir struct {
	root   *os.Root
	before times
	after  times // once the last stub was made
}

type times struct{ atime, mtime time.Time }

// stubParents says what becomes of the parents that a mount point needed.
type stubParents int

const (
	keepParents stubParents = iota
	removeParents
)

func newStubs(t *tree) *stubs { return &stubs{tree: t, dirs: map[string]*parentDir{}} }

// add makes the mount point at target if the tree has none there: a directory, or
// an empty file for a mount of something that is no directory. Mount points below
// an earlier mount are left to the engine.
func (s *stubs) add(m Mount, parents stubParents) error {
	resolved, err := s.tree.resolve(m.Target)
	if err != nil {
		return err
	}
	hidden := s.hidden(resolved)
	s.hide(resolved)
	if hidden {
		return nil
	}
	paths, err := s.tree.missing(resolved)
	if err != nil {
		return fmt.Errorf("mount point %s: %w", m.Target, cause(err))
	}
	for _, p := range paths {
		kind, keep := makeDir, parents == keepParents
		if p == resolved {
			kind, keep = kindFor(m), false
		}
		if err := s.make(p, kind, keep); err != nil {
			if errors.Is(err, syscall.EROFS) {
				return nil // the engine says that the mount point is missing
			}
			return fmt.Errorf("make mount point %s: %w", m.Target, cause(err))
		}
	}
	return nil
}

// hide says that there are mounts at the resolved paths.
func (s *stubs) hide(resolved ...string) { s.hides = append(s.hides, resolved...) }

// hidden tells whether a resolved path is on or below a mount.
func (s *stubs) hidden(resolved string) bool {
	return slices.ContainsFunc(s.hides, func(h string) bool { return below(resolved, h) })
}

// below tells whether a clean path is dir or lies in it.
func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

type stubKind int

const (
	makeDir stubKind = iota
	makeFile
)

func kindFor(m Mount) stubKind {
	if !isBind(m) {
		return makeDir
	}
	if fi, err := os.Stat(m.Source); err == nil && !fi.IsDir() {
		return makeFile
	}
	return makeDir
}

func (s *stubs) make(resolved string, kind stubKind, keep bool) error {
	dir, err := s.parentOf(resolved)
	if err != nil {
		return err
	}
	name := path.Base(resolved)
	if kind == makeDir {
		err = s.tree.mkdir(resolved)
	} else {
		err = makeEmpty(dir.root, name)
	}
	if err != nil {
		return err
	}
	info, err := dir.root.Lstat(name)
	if err != nil {
		return err
	}
	s.made = append(s.made, stub{parent: dir, name: name, info: info, keep: keep})
	dir.after, err = timesOf(dir.root)
	return err
}

func makeEmpty(dir *os.Root, name string) error {
	f, err := dir.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func (s *stubs) parentOf(resolved string) (*parentDir, error) {
	p := path.Dir(resolved)
	if dir := s.dirs[p]; dir != nil {
		return dir, nil
	}
	root, err := s.tree.root.OpenRoot(local(p))
	if err != nil {
		return nil, err
	}
	before, err := timesOf(root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	s.dirs[p] = &parentDir{root: root, before: before, after: before}
	return s.dirs[p], nil
}

func timesOf(dir *os.Root) (times, error) {
	fi, err := dir.Stat(".")
	if err != nil {
		return times{}, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return times{atime: time.Unix(st.Atim.Unix()), mtime: fi.ModTime()}, nil
}

// remove takes away the stubs that are still what was made, and closes s. The
// process has ended.
func (s *stubs) remove() error {
	var errs []error
	for _, st := range slices.Backward(s.made) {
		if !st.keep {
			errs = append(errs, st.remove())
		}
	}
	for _, dir := range s.dirs {
		errs = append(errs, dir.root.Close())
	}
	s.made, s.dirs = nil, nil
	return errors.Join(errs...)
}

// remove keeps what is not ours any more: something else by that name, a file that
// was written to, a directory that is not empty.
func (st stub) remove() error {
	dir := st.parent.root
	fi, err := dir.Lstat(st.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mount point %s: %w", st.name, err)
	}
	if !os.SameFile(fi, st.info) || !fi.IsDir() && fi.Size() != 0 {
		return nil
	}
	now, err := timesOf(dir)
	if err != nil {
		return fmt.Errorf("mount point %s: %w", st.name, err)
	}
	if err := dir.Remove(st.name); err != nil {
		if errors.Is(err, unix.ENOTEMPTY) {
			return nil
		}
		return fmt.Errorf("remove mount point %s: %w", st.name, err)
	}
	return st.parent.putBack(now)
}

// putBack sets the times of the directory to what they were before we changed it:
// before the stub was made if nobody else changed it since, else before it was
// removed.
func (d *parentDir) putBack(now times) error {
	want := now
	if now.mtime.Equal(d.after.mtime) || now.mtime.Equal(d.before.mtime) {
		want = d.before
	}
	if err := d.root.Chtimes(".", want.atime, want.mtime); err != nil {
		return fmt.Errorf("times of a mount point's directory: %w", err)
	}
	return nil
}
