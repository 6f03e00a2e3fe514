package op

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// mounting makes the mounts of one process and undoes them.
type mounting struct {
	cfg    *ExecConfig
	job    schedule.Job
	inputs []*layer.Layer
	// users are those of the process on the host; nil are the same.
	users *idmap.Map
	// fresh: cache mounts begin empty.
	fresh bool
	// cwd is what relative targets are relative to; "" is /.
	cwd string

	root         string
	rootReadonly bool
	mounts       []sandbox.Mount
	trees        map[*pb.Mount]*layer.Workspace // the writable trees of bind mounts
	dirs         map[*pb.Mount]string           // where bind and cache mounts lie on the host
	caches       map[string]string              // directories of cache mounts by name
	undo         []func()                       // what ends with the process
}

func newMounting(cfg *ExecConfig, job schedule.Job, inputs []*layer.Layer) *mounting {
	return &mounting{
		cfg: cfg, job: job, inputs: inputs,
		trees: map[*pb.Mount]*layer.Workspace{}, dirs: map[*pb.Mount]string{}, caches: map[string]string{},
	}
}

// all makes the mounts, parents before what lies below them.
func (m *mounting) all(ctx context.Context, mounts []*pb.Mount) error {
	sorted := slices.Clone(mounts)
	slices.SortStableFunc(sorted, func(a, b *pb.Mount) int { return strings.Compare(m.target(a), m.target(b)) })
	if err := m.openCaches(ctx, sorted); err != nil {
		return err
	}
	for _, mt := range sorted {
		if err := m.mount(ctx, mt); err != nil {
			return fmt.Errorf("mount %s: %w", mt.Dest, err)
		}
	}
	return nil
}

// target is where the process sees the mount.
func (m *mounting) target(mt *pb.Mount) string {
	if path.IsAbs(mt.Dest) {
		return path.Clean(mt.Dest)
	}
	return path.Join("/", m.cwd, mt.Dest)
}

func (m *mounting) mount(ctx context.Context, mt *pb.Mount) error {
	switch mt.MountType {
	case pb.MountType_BIND:
		return m.bind(ctx, mt)
	case pb.MountType_CACHE:
		return m.cache(mt)
	case pb.MountType_TMPFS:
		m.tmpfs(mt)
		return nil
	case pb.MountType_SECRET:
		return m.secret(ctx, mt)
	case pb.MountType_SSH:
		return m.ssh(ctx, mt)
	}
	return fmt.Errorf("type %s is not known", mt.MountType)
}

// bind mounts an input. The root is always a tree of its own, for mount points
// have to be made in it.
func (m *mounting) bind(ctx context.Context, mt *pb.Mount) error {
	dir, err := m.tree(ctx, mt)
	if err != nil {
		return err
	}
	if mt.Selector != "" && path.Join("/", mt.Selector) != "/" {
		if dir, err = m.below(dir, mt.Selector); err != nil {
			return err
		}
	}
	if mt.Dest == pb.RootMount {
		m.dirs[mt] = dir
		m.root, m.rootReadonly = dir, mt.Readonly
		return nil
	}
	m.show(mt, dir)
	return nil
}

// show makes a directory of the host what the process sees at the mount.
func (m *mounting) show(mt *pb.Mount, dir string) {
	options := []string{"rbind"}
	if mt.Readonly {
		options = append(options, "ro")
	}
	m.dirs[mt] = dir
	m.mounts = append(m.mounts, sandbox.Mount{Target: m.target(mt), Source: dir, Type: "bind", Options: options})
}

func (m *mounting) tree(ctx context.Context, mt *pb.Mount) (string, error) {
	in := m.input(mt)
	if mt.Readonly && mt.Dest != pb.RootMount {
		dir, release, err := m.cfg.Layers.MountFor(ctx, in, m.users)
		if err != nil {
			return "", err
		}
		m.undo = append(m.undo, release)
		return dir, nil
	}
	w, err := m.cfg.Layers.NewWorkspace(ctx, in)
	if err != nil {
		return "", err
	}
	m.trees[mt] = w
	return w.DirFor(m.users)
}

func (m *mounting) input(mt *pb.Mount) *layer.Layer {
	if mt.Input < 0 {
		return nil
	}
	return m.inputs[mt.Input]
}

// below finds a path inside a tree, whose symbolic links can't lead out of it. What
// it returns leads there until m is unmounted, whatever other processes, who may
// share the tree, put in the place meanwhile.
func (m *mounting) below(dir, selector string) (string, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(root, selector, &how)
	for tries := 0; errors.Is(err, unix.EAGAIN) && tries < maxRaces; tries++ {
		fd, err = unix.Openat2(root, selector, &how) // something was renamed at that moment
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "", fmt.Errorf("%q: %w", path.Join("/", selector), errdefs.ErrNotFound)
	}
	if err != nil {
		return "", fmt.Errorf("%q: %w", path.Join("/", selector), err)
	}
	defer unix.Close(fd)
	return m.pin(fd)
}

// pin mounts an open file or directory at a place of its own: a runtime that has
// other mounts than this process can't mount what is only open here.
func (m *mounting) pin(fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: "source", Err: err}
	}
	dir, err := os.MkdirTemp(m.cfg.Dir, "source-")
	if err != nil {
		return "", err
	}
	at := filepath.Join(dir, "at")
	m.undo = append(m.undo, func() { // never more than these: what was mounted may still be
		os.Remove(at)
		os.Remove(dir)
	})
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(at, 0o700)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", &os.PathError{Op: "bind", Path: at, Err: err}
	}
	m.undo = append(m.undo, func() {
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			log.L.WithError(err).Warnf("unmount %s", at)
		}
	})
	return at, nil
}

// maxRaces bounds how often a path is looked up that others change.
const maxRaces = 100

// openCaches opens all cache mounts before anything else is made, as it may have to
// wait for them, and in an order in which steps don't wait for each other.
func (m *mounting) openCaches(ctx context.Context, mounts []*pb.Mount) error {
	caches := slices.DeleteFunc(slices.Clone(mounts), func(mt *pb.Mount) bool { return mt.MountType != pb.MountType_CACHE })
	slices.SortStableFunc(caches, func(a, b *pb.Mount) int { return strings.Compare(m.wanted(a).name(0), m.wanted(b).name(0)) })
	for _, mt := range caches {
		want := m.wanted(mt)
		name := want.name(0)
		if m.caches[name] != "" {
			continue
		}
		c, err := m.cfg.Caches.Get(ctx, want)
		if err != nil {
			return fmt.Errorf("mount %s: %w", mt.Dest, err)
		}
		m.undo = append(m.undo, c.Release)
		m.caches[name] = c.Dir
	}
	return nil
}

// wanted is the cache mount that a mount shows.
func (m *mounting) wanted(mt *pb.Mount) CacheMount {
	id := mt.GetCacheOpt().GetID()
	if id == "" {
		id = mt.Dest
	}
	return CacheMount{ID: id, Sharing: mt.GetCacheOpt().GetSharing(), Seed: m.input(mt), Fresh: m.fresh, Users: m.users}
}

func (m *mounting) cache(mt *pb.Mount) error {
	dir := m.caches[m.wanted(mt).name(0)]
	if mt.Selector != "" {
		var err error
		if dir, err = m.below(dir, mt.Selector); err != nil {
			return err
		}
	}
	m.show(mt, dir)
	return nil
}

func (m *mounting) tmpfs(mt *pb.Mount) {
	options := []string{"nosuid", "nodev", "mode=1777"}
	if size := mt.GetTmpfsOpt().GetSize(); size > 0 {
		options = append(options, "size="+strconv.FormatInt(size, 10))
	}
	if mt.Readonly {
		options = append(options, "ro")
	}
	m.mounts = append(m.mounts, sandbox.Mount{Target: m.target(mt), Source: "tmpfs", Type: "tmpfs", Options: options})
}

// stale tells whether a tree can't be read any more, see [layer.Workspace.Stale].
func (m *mounting) stale() bool {
	for mt, w := range m.trees {
		if l := m.input(mt); l.Lazy() && w.Stale() {
			return true
		}
	}
	return false
}

// unmount ends what only the running process needed.
func (m *mounting) unmount() {
	for _, f := range slices.Backward(m.undo) {
		f()
	}
	m.undo = nil
}

// close ends everything, but for the trees that became layers. ctx may have
// ended.
func (m *mounting) close(ctx context.Context) {
	m.unmount()
	for _, w := range m.trees {
		discard(ctx, w)
	}
}

func newID() string { return strings.ToLower(rand.Text()) }
