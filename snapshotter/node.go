package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// node is a directory: what a layer changes on top of another one.
type node struct {
	id     string
	parent *node             // nil at the bottom; set until committed at the latest
	lazy   map[string]string // of a layer that a Lazy shows; nil for a filled directory

	// Guarded by disk.mu:
	refs     int              // entries, nodes on top, and calls under way
	usage    *snapshots.Usage // nil: not measured yet
	names    []*entry         // that count bytes on disk, in both spaces
	recorded [2]bool          // in the database of which space

	mounting sync.Mutex // held while a lazy directory is checked and mounted
}

// chain is n and all below it, highest first.
func (n *node) chain() []*node {
	var all []*node
	for ; n != nil; n = n.parent {
		all = append(all, n)
	}
	return all
}

// disk is what the spaces of names share: the directories.
type disk struct {
	root    string
	own     bool // see Config
	lazy    Lazy
	limits  limits
	options []string // of every overlay mount

	mu      sync.RWMutex // guards the tables of directories and names; never held while writing to disk
	nodes   map[string]*node
	nextID  uint64
	tickets map[string]ticket

	removal removal
}

func (d *disk) dir(n *node) string  { return filepath.Join(d.root, "dirs", n.id) }
func (d *disk) fs(n *node) string   { return filepath.Join(d.dir(n), "fs") }
func (d *disk) work(n *node) string { return filepath.Join(d.dir(n), "work") }

// makeDir makes an empty directory on top of parent, which may be nil and is
// pinned by the caller. The directory is pinned: it goes with unpin.
func (d *disk) makeDir(ctx context.Context, parent *node) (*node, error) {
	d.mu.Lock()
	d.nextID++
	n := &node{id: strconv.FormatUint(d.nextID, 36), parent: parent, refs: 1}
	d.nodes[n.id] = n
	if parent != nil {
		parent.refs++
	}
	d.mu.Unlock()
	if err := d.fillDir(ctx, n); err != nil {
		d.unpin(n)
		return nil, fmt.Errorf("make a snapshot's directory: %w", err)
	}
	return n, nil
}

// fillDir makes the directory of n's tree. Its root belongs to whom it belongs to
// below.
func (d *disk) fillDir(ctx context.Context, n *node) error {
	if err := os.Mkdir(d.dir(n), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(d.fs(n), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o755)
	if n.parent != nil {
		st, err := statRoot(ctx, d.fs(n.parent))
		if err != nil {
			return err
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			if err := os.Lchown(d.fs(n), int(sys.Uid), int(sys.Gid)); err != nil {
				return err
			}
		}
		mode = st.Mode() & (os.ModePerm | os.ModeSticky | os.ModeSetgid | os.ModeSetuid)
	}
	return os.Chmod(d.fs(n), mode) // whatever the umask is
}

// statRoot may be asking the server of a lazy directory, which may hang.
func statRoot(ctx context.Context, dir string) (os.FileInfo, error) {
	type answer struct {
		os.FileInfo
		err error
	}
	got := make(chan answer, 1)
	go func() {
		st, err := os.Stat(dir)
		got <- answer{st, err}
	}()
	select {
	case a := <-got:
		return a.FileInfo, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s doesn't answer: %w", dir, context.Cause(ctx))
	}
}

// pin keeps a directory until unpin; d.mu is held. nil is the empty tree.
func (n *node) pin() {
	if n != nil {
		n.refs++
	}
}

// unpin gives up one reference to a directory.
func (d *disk) unpin(n *node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unref(n)
}

// unref gives up one reference; what nothing refers to any more is removed in
// the background. d.mu is held.
func (d *disk) unref(n *node) {
	for ; n != nil; n = n.parent {
		if n.refs--; n.refs > 0 {
			return
		}
		delete(d.nodes, n.id)
		d.removal.add(n)
	}
}

// removeDir removes a directory that nothing refers to.
func (d *disk) removeDir(ctx context.Context, n *node) error {
	if n.lazy != nil && d.lazy != nil {
		err := d.call(ctx, d.limits.unmount, func(ctx context.Context) error { return d.lazy.Unmount(ctx, d.fs(n)) })
		if err != nil {
			return fmt.Errorf("unmount lazy directory %s: %w", n.id, err)
		}
	}
	// Never empty what somebody left mounted there.
	if err := detach(d.fs(n)); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	return os.RemoveAll(d.dir(n))
}

// detach unmounts whatever is mounted on the directory itself.
func detach(dir string) error {
	for {
		switch err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case errors.Is(err, unix.EINVAL):
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}
