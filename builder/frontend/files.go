package frontend

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/continuity/sysx"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/idmap"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// maxFile bounds what is read of a file at once, in bytes; a gRPC message has
// to hold it.
const maxFile = 16 << 20

// linkRule says what the symbolic links of a tree may do.
type linkRule uint64

const (
	// linksInRoot: the tree is the root of all links, as for a process in it.
	linksInRoot linkRule = unix.RESOLVE_IN_ROOT
	// linksBeneath: links that are absolute or lead out of the tree fail. They
	// lead into another tree, for a process that sees this one as one of several.
	linksBeneath linkRule = unix.RESOLVE_BENEATH
)

// files is a directory of the host with a tree, which anybody may be changing.
// Nothing outside of it is touched, and no device or pipe in it is opened.
// Errors name the paths that were asked for.
type files struct {
	root  *os.File
	links linkRule
	users *idmap.Map // who sees the tree
}

func openFiles(dir string, links linkRule) (files, error) {
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return files{root: root, links: links}, err
}

func (f files) close() { f.root.Close() }

// handle finds a path, without opening what is there.
func (f files) handle(op, name string, flags int) (*os.File, error) {
	at := strings.TrimLeft(path.Clean("/"+name), "/")
	if at == "" {
		at = "."
	}
	how := &unix.OpenHow{
		Flags:   uint64(unix.O_PATH | unix.O_CLOEXEC | flags),
		Resolve: uint64(f.links) | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(f.root.Fd()), at, how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		// Somebody renames something in the tree.
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		default:
			return nil, &os.PathError{Op: op, Path: name, Err: err}
		}
	}
}

// read reads a regular file, or a range of it.
func (f files) read(req gwclient.ReadRequest) ([]byte, error) {
	if r := req.Range; r != nil && (r.Offset < 0 || r.Length < 0) {
		return nil, fmt.Errorf("invalid range %d+%d for %s: %w", r.Offset, r.Length, req.Filename, errdefs.ErrInvalidArgument)
	}
	h, err := f.handle("open", req.Filename, 0)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	fi, err := h.Stat()
	switch {
	case err != nil:
		return nil, err
	case fi.IsDir():
		return nil, &os.PathError{Op: "read", Path: req.Filename, Err: syscall.EISDIR}
	case !fi.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file: %w", req.Filename, errdefs.ErrInvalidArgument)
	}
	r, err := reopen(h, req.Filename)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readRange(r, req)
}

func readRange(file *os.File, req gwclient.ReadRequest) ([]byte, error) {
	offset, length := int64(0), int64(maxFile+1)
	if r := req.Range; r != nil {
		offset = int64(r.Offset)
		if r.Length > 0 {
			length = min(length, int64(r.Length))
		}
	}
	dt, err := io.ReadAll(io.NewSectionReader(file, offset, length))
	if err == nil && len(dt) > maxFile {
		return nil, fmt.Errorf("%s exceeds %d bytes; read it in ranges: %w", req.Filename, maxFile, errdefs.ErrInvalidArgument)
	}
	return dt, err
}

// reopen opens what a handle is of for reading.
func reopen(h *os.File, name string) (*os.File, error) {
	fd, err := unix.Open(procPath(h), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func procPath(h *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(h.Fd())) }

// lstat describes what is at a path; a link isn't followed.
func (f files) lstat(name string) (*fstypes.Stat, error) {
	h, err := f.handle("lstat", name, unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return f.describe(h, path.Base(path.Join("/", name)))
}

// stat describes what is at a path, behind links that stay in the tree.
func (f files) stat(name string) (*fstypes.Stat, error) {
	h, err := f.handle("stat", name, 0)
	if errors.Is(err, unix.EXDEV) {
		return f.lstat(name)
	}
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return f.describe(h, path.Base(path.Join("/", name)))
}

// list describes what is in a directory, by name.
func (f files) list(req gwclient.ReadDirRequest) ([]*fstypes.Stat, error) {
	if _, err := path.Match(req.IncludePattern, ""); err != nil {
		return nil, fmt.Errorf("pattern %q: %w: %w", req.IncludePattern, err, errdefs.ErrInvalidArgument)
	}
	h, err := f.handle("open", req.Path, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	dir, err := reopen(h, req.Path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	in := files{dir, f.links, f.users}
	var list []*fstypes.Stat
	for _, e := range entries {
		if ok, _ := path.Match(req.IncludePattern, e.Name()); !ok && req.IncludePattern != "" {
			continue
		}
		st, err := in.lstat(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b *fstypes.Stat) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// describe is what a client is told of a file.
func (f files) describe(h *os.File, name string) (*fstypes.Stat, error) {
	fi, err := h.Stat()
	if err != nil {
		return nil, err
	}
	sys := fi.Sys().(*syscall.Stat_t)
	uid, gid := f.users.Inside(int(sys.Uid), int(sys.Gid))
	st := &fstypes.Stat{
		Path: name, Mode: uint32(fi.Mode() &^ os.ModeSocket), ModTime: fi.ModTime().UnixNano(), Uid: uint32(uid), Gid: uint32(gid),
	}
	switch fi.Mode().Type() {
	case fs.ModeDir:
	case fs.ModeSymlink:
		st.Size = fi.Size()
		if st.Linkname, err = readlink(h); err != nil {
			return nil, err
		}
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		st.Devmajor, st.Devminor = int64(unix.Major(sys.Rdev)), int64(unix.Minor(sys.Rdev))
	default:
		st.Size = fi.Size()
	}
	st.Xattrs, err = xattrs(h)
	return st, err
}

func readlink(h *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(h.Fd()), "", buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: h.Name(), Err: err}
	}
	return string(buf[:n]), nil
}

// xattrs are the extended attributes that can be read.
func xattrs(h *os.File) (map[string][]byte, error) {
	names, err := sysx.Listxattr(procPath(h))
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: h.Name(), Err: err}
	}
	var attrs map[string][]byte
	for _, name := range names {
		if value, err := sysx.Getxattr(procPath(h), name); err == nil {
			if attrs == nil {
				attrs = map[string][]byte{}
			}
			attrs[name] = value
		}
	}
	return attrs, nil
}
