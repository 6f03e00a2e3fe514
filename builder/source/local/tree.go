package local

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/kiln-build/kiln/builder/layer/checksum"
	"golang.org/x/sys/unix"
)

// tree writes below a directory. It goes down from open directory to open
// directory and never through a link, whatever lies there.
type tree struct {
	root *os.Root
	dirs []openedDir // from the root to the directory used last
}

type openedDir struct {
	path string
	f    *os.File
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	return &tree{root: root, dirs: []openedDir{{".", f}}}, nil
}

func (t *tree) close() {
	for _, d := range t.dirs {
		d.f.Close()
	}
	t.root.Close()
}

// in gives the open directory that a path is in, which is cheap for paths in
// order. The descriptor is good until the next call.
func (t *tree) in(p string) (fd int, name string, err error) {
	dir := path.Dir(p)
	n := len(t.dirs)
	for at := t.dirs[n-1].path; at != dir && at != "." && !strings.HasPrefix(dir, at+"/"); at = t.dirs[n-1].path {
		n--
		t.dirs[n].f.Close()
		t.dirs = t.dirs[:n]
	}
	for t.dirs[n-1].path != dir {
		at := t.dirs[n-1]
		next, _, _ := strings.Cut(strings.TrimPrefix(dir, strings.TrimPrefix(at.path+"/", "./")), "/")
		f, err := openDirAt(at.f, next)
		if err != nil {
			return 0, "", &fs.PathError{Op: "open", Path: path.Join(at.path, next), Err: err}
		}
		t.dirs = append(t.dirs, openedDir{path.Join(at.path, next), f})
		n++
	}
	return int(t.dirs[n-1].f.Fd()), path.Base(p), nil
}

func openDirAt(at *os.File, name string) (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(at.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func retry(f func() (int, error)) (n int, err error) {
	for {
		if n, err = f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// remove removes what is at the path, with all that is below it.
func (t *tree) remove(p string) error {
	for i, d := range t.dirs { // don't keep what goes away open
		if d.path == p || strings.HasPrefix(d.path, p+"/") {
			for _, gone := range t.dirs[i:] {
				gone.f.Close()
			}
			t.dirs = t.dirs[:i]
			break
		}
	}
	return t.root.RemoveAll(p)
}

// make makes anything but a file with content. A directory gets its metadata
// in the end, from finishDir.
func (t *tree) make(e *entry) error {
	if e.isLink() {
		return t.root.Link(e.Linkname, e.Path)
	}
	fd, name, err := t.in(e.Path)
	if err != nil {
		return err
	}
	switch e.Mode.Type() {
	case fs.ModeDir:
		return pathError("mkdir", e, unix.Mkdirat(fd, name, 0o700))
	case fs.ModeSymlink:
		err = unix.Symlinkat(e.Linkname, fd, name)
	case fs.ModeNamedPipe:
		err = unix.Mknodat(fd, name, unix.S_IFIFO|0o600, 0)
	case fs.ModeDevice:
		err = unix.Mknodat(fd, name, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(e.Devmajor), uint32(e.Devminor))))
	default:
		err = unix.Mknodat(fd, name, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(e.Devmajor), uint32(e.Devminor))))
	}
	if err != nil {
		return pathError("create", e, err)
	}
	if err := unix.Fchownat(fd, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("chown", e, err)
	}
	if e.Mode&fs.ModeSymlink == 0 {
		if err := unix.Fchmodat(fd, name, unixMode(e.Mode), 0); err != nil {
			return pathError("chmod", e, err)
		}
	}
	return pathError("set times of", e, unix.UtimesNanoAt(fd, name, times(e.ModTime), unix.AT_SYMLINK_NOFOLLOW))
}

// create makes an empty file, to be filled and then given to finishFile.
func (t *tree) create(e *entry) (*os.File, error) {
	at, name, err := t.in(e.Path)
	if err != nil {
		return nil, err
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(at, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return nil, pathError("create", e, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// finishDir sets the metadata of a directory whose content is done.
func (t *tree) finishDir(e *entry) error {
	if err := t.dir(e.Path); err != nil {
		return err
	}
	return setMetadata(t.dirs[len(t.dirs)-1].f, e)
}

// dir goes to a directory.
func (t *tree) dir(p string) error {
	_, _, err := t.in(p + "/.")
	return err
}

// setMetadata sets the owner, mode, attributes and times of an open file or
// directory. Attributes that can't be set are taken off the entry.
func setMetadata(f *os.File, e *entry) error {
	fd := int(f.Fd())
	if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
		return pathError("chown", e, err)
	}
	if err := unix.Fchmod(fd, unixMode(e.Mode)); err != nil {
		return pathError("chmod", e, err)
	}
	kept := map[string][]byte{}
	for k, v := range e.Xattrs {
		if err := unix.Fsetxattr(fd, k, v, 0); err == nil {
			kept[k] = v
		}
	}
	if len(kept) != len(e.Xattrs) {
		e.Xattrs = kept
	}
	// futimens, by way of a path that can't be swapped
	err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times(e.ModTime), 0)
	return pathError("set times of", e, err)
}

// finishFile sets a file's metadata and digest, given the hash of what was
// announced with the content, and closes it.
func finishFile(f *os.File, e *entry, h hash.Hash, size int64) error {
	defer f.Close()
	attrs := len(e.Xattrs)
	if err := setMetadata(f, e); err != nil {
		return err
	}
	if size != e.Size || len(e.Xattrs) != attrs { // not quite what was announced
		e.Size = size
		h = checksum.NewHash(e.Entry)
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	e.Digest = "sha256:" + hex.EncodeToString(h.Sum(make([]byte, 0, sha256.Size)))
	return f.Close()
}

func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		mode |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		mode |= unix.S_ISVTX
	}
	return mode
}

func times(ns int64) []unix.Timespec {
	ts := unix.NsecToTimespec(ns)
	return []unix.Timespec{ts, ts}
}

func pathError(op string, e *entry, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: e.Path, Err: err}
}
