package fileop

import (
	"fmt"
	"os"
	"path"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// dir is a directory that is being copied. It is finished, and its files are
// closed, when the last of those who work in it has released it.
type dir struct {
	parent *dir
	src    *os.File
	dst    *os.File // nil until something in it is copied
	name   string   // of dst in parent
	path   string   // of dst in its tree
	st     unix.Stat_t
	// top: the action's path leads here. A top that existed keeps its
	// metadata but for the times.
	top bool
	// selected: the filter has chosen the directory itself.
	selected bool
	// made: it did not exist.
	made bool
	// foreign: it is only where one file is copied, and isn't copied itself.
	foreign bool
	refs    atomic.Int32
}

// createTop makes or opens the directory that a copied directory becomes.
func (d *dir) createTop(w *walk) (err error) {
	if d.path == "" {
		d.dst, err = w.dst.openDir("")
		return err
	}
	at, name, err := w.dst.parent(d.path)
	if err != nil {
		return err
	}
	d.name = name
	d.parent = &dir{dst: at, path: parentPath(d.path), foreign: true}
	d.parent.refs.Store(1)
	return d.open(w, d.parent.dst)
}

// create makes d and the directories above it, where that wasn't done yet.
func (d *dir) create(w *walk) error {
	if d.dst != nil {
		return nil
	}
	if err := d.parent.create(w); err != nil {
		return err
	}
	return d.open(w, d.parent.dst)
}

func (d *dir) open(w *walk, at *os.File) error {
	// The mode is set when d is finished; until then we may have to write.
	err := unix.Mkdirat(int(at.Fd()), d.name, 0o700)
	if err == nil {
		d.made = true
	} else if err != unix.EEXIST {
		return pathError("mkdir", d.path, err)
	}
	d.dst, err = openDirAt(at, d.name)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		if !w.action.GetAlwaysReplaceExistingDestPaths() {
			return fmt.Errorf("cannot copy to non-directory: %s", path.Join("/", d.path))
		}
		if err := removeAt(at, d.name, d.path); err != nil {
			return err
		}
		return d.open(w, at)
	}
	if err != nil {
		return pathError("open", d.path, err)
	}
	if !d.made && !d.selected {
		if err := unix.Fchmod(int(d.dst.Fd()), d.st.Mode&permissions); err != nil {
			return pathError("chmod", d.path, err)
		}
	}
	return nil
}

// release drops one reference. Unless the copy has failed, the last one
// finishes the directory.
func (d *dir) release(w *walk, failed error) error {
	if d.refs.Add(-1) > 0 {
		return nil
	}
	var err error
	if failed == nil && w.ctx.Err() == nil {
		err = d.finish(w)
	}
	for _, f := range []*os.File{d.src, d.dst} {
		if f != nil {
			f.Close()
		}
	}
	if d.parent == nil {
		return err
	}
	return first(err, d.parent.release(w, first(failed, err)))
}

// finish sets the metadata.
func (d *dir) finish(w *walk) error {
	switch {
	case d.dst == nil || d.foreign:
		return nil
	case d.made || d.selected && !d.top:
		if err := w.setMetadata(d.src, d.dst, &d.st, d.path); err != nil {
			return err
		}
	case !d.top:
		return nil
	}
	return w.setTimes(d)
}

// setTimes sets d's times; it needs no name in another directory.
func (w *walk) setTimes(d *dir) error {
	ts := w.timesFor(&d.st)
	name := fmt.Sprintf("/proc/self/fd/%d", d.dst.Fd())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, ts, 0); err != nil {
		return pathError("utime", d.path, err)
	}
	return nil
}

// timesFor gives the times of the copy of a file.
func (c *copier) timesFor(st *unix.Stat_t) times {
	if c.times != nil {
		return c.times
	}
	return times{st.Atim, st.Mtim}
}
