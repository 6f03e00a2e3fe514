package checksum

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// reader reads a tree's files on behalf of one call.
type reader struct {
	ctx     context.Context
	mount   Mount
	root    *os.File // nil until something was read
	release func()
}

func (r *reader) open() error {
	if r.root != nil {
		return nil
	}
	if r.mount == nil {
		return fmt.Errorf("the tree's files are not at hand")
	}
	dir, release, err := r.mount(r.ctx)
	if err != nil {
		return err
	}
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		release()
		return fmt.Errorf("opening the tree's root: %w", err)
	}
	r.root, r.release = root, release
	return nil
}

func (r *reader) close() {
	if r.root != nil {
		r.root.Close()
		r.release()
	}
}

// openDir opens a directory of the tree. The path to it has no links, since
// the tree knows only real directories.
func (r *reader) openDir(n *node) (*os.File, error) {
	if err := r.open(); err != nil {
		return nil, err
	}
	how := &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	fd, err := retry(func() (int, error) { return unix.Openat2(int(r.root.Fd()), n.path(), how) })
	if err != nil {
		return nil, pathError("open", n, err)
	}
	// Under this name the kernel finds the directory whatever its path is.
	return os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd)), nil
}

func (r *reader) scan(n *node) error {
	if n.dir.scanned {
		return nil
	}
	if err := context.Cause(r.ctx); err != nil {
		return err
	}
	d, err := r.openDir(n)
	if err != nil {
		return err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return pathError("readdir", n, errno(err))
	}
	children := make([]*node, 0, len(entries))
	for _, e := range entries {
		c := &node{name: e.Name(), parent: n}
		switch e.Type() {
		case 0:
			c.kind = kindFile
		case fs.ModeDir:
			c.kind, c.dir = kindDir, &directory{}
		case fs.ModeSymlink:
			c.kind = kindLink
			if c.link, err = readlink(d, c.name); err != nil {
				return pathError("readlink", c, err)
			}
		}
		children = append(children, c)
	}
	slices.SortFunc(children, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	n.dir.children, n.dir.scanned = children, true
	return nil
}

// scanAll scans n and every directory in it.
func (r *reader) scanAll(n *node) error {
	if n.kind != kindDir || n.dir.summed {
		return nil
	}
	if err := r.scan(n); err != nil {
		return err
	}
	for _, c := range n.dir.children {
		if err := r.scanAll(c); err != nil {
			return err
		}
	}
	return nil
}

// buffers are what hashers read into.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 128<<10)
	return &b
}}

// hash hashes the nodes, several at a time.
func (r *reader) hash(nodes []*node) error {
	if len(nodes) == 0 {
		return nil
	}
	if err := r.open(); err != nil {
		return err
	}
	// Neighbours are mostly in one directory, which a worker keeps open.
	const batch = 8
	var next atomic.Int64
	eg, ctx := errgroup.WithContext(r.ctx)
	for range min(runtime.GOMAXPROCS(0), (len(nodes)+batch-1)/batch) {
		eg.Go(func() error {
			buf := buffers.Get().(*[]byte)
			defer buffers.Put(buf)
			w := &hasher{r: r, ctx: ctx, buf: *buf}
			defer w.leave()
			for {
				from := int(next.Add(batch)) - batch
				if from >= len(nodes) {
					return nil
				}
				for _, n := range nodes[from:min(from+batch, len(nodes))] {
					if err := w.hash(n); err != nil {
						return err
					}
				}
			}
		})
	}
	return eg.Wait()
}

func readlink(dir *os.File, name string) (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := retry(func() (int, error) { return unix.Readlinkat(int(dir.Fd()), name, b) })
		if err != nil {
			return "", err
		}
		if n < size {
			return string(b[:n]), nil
		}
	}
}

// pathError names the place in the tree, not where the tree is.
func pathError(op string, n *node, err error) error {
	return &fs.PathError{Op: op, Path: path.Join("/", n.path()), Err: err}
}

// errno strips the path that package os put around an error.
func errno(err error) error {
	if p, ok := err.(*fs.PathError); ok {
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
