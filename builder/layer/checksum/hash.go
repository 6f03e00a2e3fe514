package checksum

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// hasher hashes entries one after the other. It keeps the directory of the
// last one open.
type hasher struct {
	r     *reader
	ctx   context.Context
	buf   []byte
	dir   *os.File // nil until the first entry
	dirOf *node
}

func (w *hasher) leave() {
	if w.dir != nil {
		w.dir.Close()
		w.dir, w.dirOf = nil, nil
	}
}

func (w *hasher) enter(n *node) error {
	if w.dirOf == n {
		return nil
	}
	w.leave()
	d, err := w.r.openDir(n)
	if err != nil {
		return err
	}
	w.dir, w.dirOf = d, n
	return nil
}

// hash sets n's own digest.
func (w *hasher) hash(n *node) error {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	h := sha256.New()
	var err error
	switch n.kind {
	case kindDir:
		if err = w.enter(n); err == nil {
			err = hashOpen(h, w.dir)
		}
	case kindFile:
		if err = w.enter(n.parent); err == nil {
			err = w.hashFile(h, n.name)
		}
	default:
		if err = w.enter(n.parent); err == nil {
			err = w.hashSpecial(h, n)
		}
	}
	if err != nil {
		if _, ok := err.(*fs.PathError); !ok {
			err = pathError("checksum", n, err)
		}
		return err
	}
	h.Sum(n.own[:0])
	n.hashed = true
	return nil
}

func (w *hasher) hashFile(h hash.Hash, name string) error {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(w.dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	if err := hashOpen(h, f); err != nil {
		return err
	}
	for {
		if err := context.Cause(w.ctx); err != nil {
			return err
		}
		n, err := retry(func() (int, error) { return unix.Read(fd, w.buf) })
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		h.Write(w.buf[:n])
	}
}

// hashSpecial hashes what can't be opened.
func (w *hasher) hashSpecial(h io.Writer, n *node) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(w.dir.Fd()), n.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	name := fmt.Sprintf("/proc/self/fd/%d/%s", w.dir.Fd(), n.name)
	xattrs, err := readXattrs(
		func(b []byte) (int, error) { return unix.Llistxattr(name, b) },
		func(k string, b []byte) (int, error) { return unix.Lgetxattr(name, k, b) })
	if err != nil {
		return err
	}
	writeHeader(h, entryOf(&st, n.link, xattrs))
	return nil
}

// hashOpen hashes the metadata of an open file.
func hashOpen(h io.Writer, f *os.File) error {
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	xattrs, err := readXattrs(
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(k string, b []byte) (int, error) { return unix.Fgetxattr(fd, k, b) })
	if err != nil {
		return err
	}
	writeHeader(h, entryOf(&st, "", xattrs))
	return nil
}

// entryOf describes what a system call has said about a file.
func entryOf(st *unix.Stat_t, link string, xattrs map[string][]byte) Entry {
	e := Entry{
		Mode: fs.FileMode(st.Mode & 0o777), UID: st.Uid, GID: st.Gid, Size: st.Size,
		Linkname: link, Xattrs: xattrs,
	}
	if st.Mode&unix.S_ISUID != 0 {
		e.Mode |= fs.ModeSetuid
	}
	if st.Mode&unix.S_ISGID != 0 {
		e.Mode |= fs.ModeSetgid
	}
	if st.Mode&unix.S_ISVTX != 0 {
		e.Mode |= fs.ModeSticky
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Mode |= fs.ModeDir
	case unix.S_IFLNK:
		e.Mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		e.Mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		e.Mode |= fs.ModeSocket
	case unix.S_IFCHR:
		e.Mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		e.Mode |= fs.ModeDevice
	}
	if e.Mode&fs.ModeDevice != 0 {
		e.Devmajor, e.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return e
}
