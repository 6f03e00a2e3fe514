package fileop

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// extractor extracts one archive. The directory that it extracts into is the
// root for the links that are in it.
type extractor struct {
	ctx   context.Context
	into  *Tree
	owner *Owner
	// dirs get their times when all is done.
	dirs []dirTimes
}

type dirTimes struct {
	path  string
	times times
}

// ctxReader ends extraction when the context ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(b []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

func (x *extractor) extract(r io.Reader) error {
	d, err := decompress(ctxReader{x.ctx, r})
	if err != nil {
		return err
	}
	defer d.Close()
	tr := tar.NewReader(d)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := x.entry(hdr, tr); err != nil {
			return err
		}
	}
	for _, d := range slices.Backward(x.dirs) {
		dir, name, err := x.into.parent(d.path)
		if err != nil {
			continue // replaced by a later entry
		}
		err = d.times.setAt(int(dir.Fd()), name)
		dir.Close()
		if err != nil && err != unix.ENOENT {
			return pathError("utime", d.path, err)
		}
	}
	return nil
}

// entry makes what the header says.
func (x *extractor) entry(hdr *tar.Header, content io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := entryName(hdr.Name)
	if err != nil || name == "" {
		return err
	}
	parent, err := x.into.resolve(parentPath(name))
	if err != nil {
		return err
	}
	if _, err := x.into.mkdirAll(parent, newDir{perm: 0o755, owner: x.owner}); err != nil {
		return err
	}
	p := path.Join(parent, path.Base(name))
	dir, base, err := x.into.parent(p)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := x.clear(dir, base, p, hdr); err != nil {
		return err
	}
	if err := x.make(dir, base, hdr, content); err != nil {
		return pathError("extract", p, errno(err))
	}
	if err := x.metadata(dir, base, hdr); err != nil {
		return pathError("extract", p, errno(err))
	}
	if ts := headerTimes(hdr); hdr.Typeflag == tar.TypeDir {
		x.dirs = append(x.dirs, dirTimes{p, ts})
	} else if err := ts.setAt(int(dir.Fd()), base); err != nil {
		return pathError("utime", p, err)
	}
	return nil
}

// entryName gives the clean path of an archive's entry, "" for its root.
func entryName(name string) (string, error) {
	if clean := path.Clean(name); clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("the archive has the entry %q outside of it", name)
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// clear removes what is in the way of an entry.
func (x *extractor) clear(dir *os.File, base, p string, hdr *tar.Header) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return pathError("lstat", p, err)
	}
	if hdr.Typeflag == tar.TypeDir && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	return removeAt(dir, base, p)
}

// make makes the entry without its metadata.
func (x *extractor) make(dir *os.File, base string, hdr *tar.Header, content io.Reader) error {
	at := int(dir.Fd())
	switch hdr.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(at, base, 0o700); err != unix.EEXIST {
			return err
		}
		return nil
	case tar.TypeReg, tar.TypeRegA: //nolint:staticcheck // old archives have it
		fd, err := unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), base)
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	case tar.TypeSymlink:
		return unix.Symlinkat(hdr.Linkname, at, base)
	case tar.TypeLink:
		return x.link(dir, base, hdr.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}
		dev := unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
		return unix.Mknodat(at, base, kind[hdr.Typeflag]|0o600, int(dev))
	default:
		return fmt.Errorf("unhandled type %q", hdr.Typeflag)
	}
}

// link makes another name of an entry that was extracted before.
func (x *extractor) link(dir *os.File, base, target string) error {
	name, err := entryName(target)
	if err != nil {
		return err
	}
	p, err := x.into.resolveParent(name)
	if err != nil {
		return err
	}
	if p == "" {
		return unix.EPERM
	}
	from, old, err := x.into.parent(p)
	if err != nil {
		return err
	}
	defer from.Close()
	return unix.Linkat(int(from.Fd()), old, int(dir.Fd()), base, 0)
}

// metadata sets owner, mode and extended attributes.
func (x *extractor) metadata(dir *os.File, base string, hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeLink {
		return nil // it has those of the file that it is
	}
	at := int(dir.Fd())
	owner := x.owner
	if owner == nil {
		owner = &Owner{UID: uint32(hdr.Uid), GID: uint32(hdr.Gid)}
	}
	if err := owner.chownAt(at, base); err != nil {
		return err
	}
	if hdr.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(at, base, uint32(hdr.Mode)&permissions, 0); err != nil {
			return err
		}
	}
	to := entryXattrs(dir, base)
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && belongsToFile(name) {
			_ = to.setter(to.path, name, []byte(value), 0) // as good as it gets
		}
	}
	return nil
}

func headerTimes(hdr *tar.Header) times {
	modified, accessed := hdr.ModTime, hdr.AccessTime
	if accessed.IsZero() || accessed.Before(time.Unix(0, 0)) {
		accessed = modified
	}
	return times{timespec(accessed), timespec(modified)}
}

// timespec keeps a time in what all file systems have; the archive may say
// anything.
func timespec(t time.Time) unix.Timespec {
	sec := min(max(t.Unix(), 0), 1<<33)
	return unix.Timespec{Sec: sec, Nsec: int64(t.Nanosecond())}
}
