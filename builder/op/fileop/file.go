package fileop

import (
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// ownerFor gives the owner of the copy of a file.
func (c *copier) ownerFor(st *unix.Stat_t) *Owner {
	if c.owner != nil {
		return c.owner
	}
	return &Owner{UID: st.Uid, GID: st.Gid}
}

// copyFile copies a regular file.
func (w *walk) copyFile(f file, b *buffer) error {
	in, err := retry(func() (int, error) {
		return unix.Openat(int(f.dir.src.Fd()), f.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	p := path.Join(f.dir.path, f.as)
	if err != nil {
		return pathError("open", p, err)
	}
	src := os.NewFile(uintptr(in), p)
	defer src.Close()
	var dst *os.File
	err = w.replace(f, func() error {
		out, err := retry(func() (int, error) {
			return unix.Openat(int(f.dir.dst.Fd()), f.as, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		})
		if err == nil {
			dst = os.NewFile(uintptr(out), p)
		}
		return err
	})
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := b.copy(w.ctx, dst, src, &f.st); err != nil {
		return pathError("copy", p, errno(err))
	}
	if err := w.setMetadata(src, dst, &f.st, p); err != nil {
		return err
	}
	if err := w.timesFor(&f.st).setAt(int(f.dir.dst.Fd()), f.as); err != nil {
		return pathError("utime", p, err)
	}
	return nil
}

// setMetadata gives dst all but the times of src, which st describes.
func (w *walk) setMetadata(src, dst *os.File, st *unix.Stat_t, p string) error {
	fd := int(dst.Fd())
	if err := w.ownerFor(st).chown(fd); err != nil {
		return pathError("chown", p, err)
	}
	if err := unix.Fchmod(fd, w.chmod(st.Mode)); err != nil {
		return pathError("chmod", p, err)
	}
	w.copyXattrs(openXattrs(src), openXattrs(dst), p)
	return nil
}

// copySpecial copies a link, a device or a pipe. Of a socket an empty file is
// left.
func (w *walk) copySpecial(f file) error {
	from, to := int(f.dir.src.Fd()), int(f.dir.dst.Fd())
	p := path.Join(f.dir.path, f.as)
	isLink := f.st.Mode&unix.S_IFMT == unix.S_IFLNK
	var target string
	if isLink {
		var err error
		if target, err = readlinkAt(from, f.name); err != nil {
			return pathError("readlink", p, err)
		}
	}
	err := w.replace(f, func() error {
		if isLink {
			return unix.Symlinkat(target, to, f.as)
		}
		kind := f.st.Mode & unix.S_IFMT
		if kind == unix.S_IFSOCK {
			kind = unix.S_IFREG
		}
		return unix.Mknodat(to, f.as, kind|0o600, int(f.st.Rdev))
	})
	if err != nil {
		return err
	}
	if err := w.ownerFor(&f.st).chownAt(to, f.as); err != nil {
		return pathError("chown", p, err)
	}
	if !isLink {
		if err := unix.Fchmodat(to, f.as, w.chmod(f.st.Mode), 0); err != nil {
			return pathError("chmod", p, err)
		}
	}
	w.copyXattrs(entryXattrs(f.dir.src, f.name), entryXattrs(f.dir.dst, f.as), p)
	if err := w.timesFor(&f.st).setAt(to, f.as); err != nil {
		return pathError("utime", p, err)
	}
	return nil
}
