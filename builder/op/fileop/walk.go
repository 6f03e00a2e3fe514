package fileop

import (
	"context"
	"fmt"
	"os"
	"path"
	"runtime"

	"github.com/kiln-build/kiln/builder/layer/checksum"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// walk copies one file or directory tree. It goes through the directories
// itself and leaves the files' content to workers.
type walk struct {
	*copier
	ctx   context.Context
	files chan file
	// links has where the first of several names of a file was copied to.
	links map[inode]string
}

type inode struct{ dev, ino uint64 }

// file is a regular file to be copied from and into the directory dir.
type file struct {
	dir      *dir
	name, as string
	st       unix.Stat_t
}

// copyTree copies source to target, both clean paths without links, target in
// a directory that exists.
func (c *copier) copyTree(ctx context.Context, source, target string) (err error) {
	eg, ctx := errgroup.WithContext(ctx)
	w := &walk{copier: c, ctx: ctx, files: make(chan file, 64), links: map[inode]string{}}
	for range runtime.GOMAXPROCS(0) {
		eg.Go(w.work)
	}
	eg.Go(func() error {
		defer close(w.files)
		return w.top(source, target)
	})
	return eg.Wait()
}

// work copies files until there are no more. It empties the channel even when
// the copy has failed, so that all directories are closed.
func (w *walk) work() error {
	var failed error
	b := &buffer{}
	for f := range w.files {
		if failed == nil && w.ctx.Err() == nil {
			failed = w.copyFile(f, b)
		}
		if err := f.dir.release(w, failed); failed == nil {
			failed = err
		}
	}
	return failed
}

// top copies what the action's path leads to.
func (w *walk) top(source, target string) error {
	st, err := w.src.stat(source)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return w.topDir(source, target, st)
	}
	if target == "" {
		return cannotReplace(target)
	}
	from, name, err := w.src.parent(source)
	if err != nil {
		return err
	}
	to, as, err := w.dst.parent(target)
	if err != nil {
		from.Close()
		return err
	}
	d := &dir{src: from, dst: to, path: parentPath(target), foreign: true}
	d.refs.Store(1)
	err = w.entry(d, name, as, st)
	return first(err, d.release(w, err))
}

func (w *walk) topDir(source, target string, st unix.Stat_t) error {
	src, err := w.src.openDir(source)
	if err != nil {
		return err
	}
	d := &dir{src: src, path: target, st: st, top: true, selected: true}
	d.refs.Store(1)
	err = d.createTop(w)
	if err == nil {
		err = w.children(d, "", checksum.Above{})
	}
	return first(err, d.release(w, err))
}

// children copies what is in d; rel is d's path as the filter sees it.
func (w *walk) children(d *dir, rel string, above checksum.Above) error {
	entries, err := readDir(d.src)
	if err != nil {
		return pathError("readdir", rel, errno(err))
	}
	for _, e := range entries {
		if err := context.Cause(w.ctx); err != nil {
			return err
		}
		if err := w.child(d, e, path.Join(rel, e.Name()), above); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) child(d *dir, e os.DirEntry, rel string, above checksum.Above) error {
	v, err := w.filter.Match(rel, above)
	if err != nil {
		return err
	}
	if !v.Selected && (!e.IsDir() || v.Hopeless) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.src.Fd()), e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("lstat", rel, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if !v.Selected {
			return nil
		}
		if err := d.create(w); err != nil {
			return err
		}
		return w.entry(d, e.Name(), e.Name(), st)
	}
	src, err := openDirAt(d.src, e.Name())
	if err != nil {
		return pathError("open", rel, err)
	}
	d.refs.Add(1)
	sub := &dir{parent: d, src: src, name: e.Name(), path: path.Join(d.path, e.Name()), st: st, selected: v.Selected}
	sub.refs.Store(1)
	if v.Selected {
		err = sub.create(w)
	}
	if err == nil {
		err = w.children(sub, rel, v.Below)
	}
	return first(err, sub.release(w, err))
}

// entry copies what is no directory, from d as another name into d.
func (w *walk) entry(d *dir, name, as string, st unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return w.copySpecial(file{d, name, as, st})
	}
	f := file{d, name, as, st}
	if st.Nlink > 1 {
		return w.copyLinked(f)
	}
	d.refs.Add(1)
	select {
	case w.files <- f:
		return nil
	case <-w.ctx.Done():
		return first(context.Cause(w.ctx), d.release(w, w.ctx.Err()))
	}
}

// copyLinked copies a file that has several names: the first time as a file,
// then as a link to it.
func (w *walk) copyLinked(f file) error {
	key := inode{f.st.Dev, f.st.Ino}
	p := path.Join(f.dir.path, f.as)
	old, ok := w.links[key]
	if !ok {
		w.links[key] = p
		return w.copyFile(f, &buffer{})
	}
	from, name, err := w.dst.parent(old)
	if err != nil {
		return err
	}
	defer from.Close()
	return w.replace(f, func() error {
		return unix.Linkat(int(from.Fd()), name, int(f.dir.dst.Fd()), f.as, 0)
	})
}

// replace calls make, which must fail if there is something; then it removes
// that and calls make again.
func (w *walk) replace(f file, make func() error) error {
	p := path.Join(f.dir.path, f.as)
	err := make()
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(int(f.dir.dst.Fd()), f.as, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return pathError("lstat", p, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR && !w.action.GetAlwaysReplaceExistingDestPaths() {
			return cannotReplace(p)
		}
		if err := removeAt(f.dir.dst, f.as, p); err != nil {
			return err
		}
		err = make()
	}
	if err != nil {
		return pathError("create", p, err)
	}
	return nil
}

func cannotReplace(p string) error {
	return fmt.Errorf("cannot replace to directory %s with file", path.Join("/", p))
}

func parentPath(p string) string {
	if d := path.Dir(p); d != "." {
		return d
	}
	return ""
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
