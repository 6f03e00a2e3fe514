package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/kiln-build/kiln/builder/idmap"
)

// maxIdle bounds how many layers stay mounted without being used.
const maxIdle = 64

// Mount returns a directory with the layer's tree, read-only. The mount is
// shared between all who ask for the same layer; release gives it up, may be
// called more than once, and must be called. A nil layer is an empty directory.
func (s *Store) Mount(ctx context.Context, l *Layer) (dir string, release func(), err error) {
	return s.MountFor(ctx, l, nil)
}

// MountFor is Mount for processes whose users are those of ids.
func (s *Store) MountFor(ctx context.Context, l *Layer, ids *idmap.Map) (dir string, release func(), err error) {
	v, release, err := s.views.acquire(ctx, l, ids)
	if err != nil {
		return "", nil, err
	}
	return v.dir, release, nil
}

// view is a mounted layer.
type view struct {
	viewKey
	ready  chan struct{}
	err    error // valid once ready, as are the next three
	dir    string
	key    string        // of the snapshot that keeps the layer; "" for none
	mounts []mount.Mount // what is mounted on dir

	refs  int         // guarded by views.mu
	idle  *time.Timer // unmounts; set while refs is 0
	stale bool        // can't be read; guarded by views.mu
}

// viewKey is what is shown to whom.
type viewKey struct {
	name string     // the layer's; "" is the empty tree
	ids  *idmap.Map // whose users see it
}

// views are the mounted layers. A view stays mounted for a while after
// its last use.
type views struct {
	s      *Store
	linger time.Duration

	mu     sync.Mutex
	byKey  map[viewKey]*view
	idle   int
	closed bool
	ending map[*view]chan struct{} // being unmounted since their time is over; closed at the end
	left   []string                // snapshots of views that are unmounted and could not be removed
	work   sync.WaitGroup          // mounting and unmounting
}

func (vs *views) init(s *Store, linger time.Duration) {
	vs.s, vs.linger, vs.byKey, vs.ending = s, linger, map[viewKey]*view{}, map[*view]chan struct{}{}
}

func (vs *views) acquire(ctx context.Context, l *Layer, ids *idmap.Map) (*view, func(), error) {
	name := ""
	if l != nil {
		name = l.Name
	}
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	vs.mu.Lock()
	if vs.closed {
		vs.mu.Unlock()
		return nil, nil, fmt.Errorf("mount layer %s: the layer store is closed: %w", name, errdefs.ErrUnavailable)
	}
	v, found := vs.byKey[viewKey{name, ids}]
	if !found {
		v = &view{viewKey: viewKey{name, ids}, ready: make(chan struct{})}
		vs.byKey[v.viewKey] = v
		vs.work.Go(func() { vs.mount(ctx, v) })
	}
	v.refs++
	if v.idle != nil {
		v.idle.Stop()
		v.idle = nil
		vs.idle--
	}
	vs.mu.Unlock()

	release := sync.OnceFunc(func() { vs.release(v) })
	select {
	case <-v.ready:
	case <-ctx.Done():
		release()
		return nil, nil, context.Cause(ctx)
	}
	if v.err != nil {
		release()
		return nil, nil, fmt.Errorf("mount layer %s: %w", name, v.err)
	}
	if found && (l.Lazy() || byProgram(v.mounts)) && stale(v.dir) {
		vs.forget(v)
		release()
		return vs.acquire(ctx, l, ids)
	}
	return v, release, nil
}

// forget has a view that can't be read any more unmounted when its last user has
// left, and the next one mount the layer anew.
func (vs *views) forget(v *view) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if vs.byKey[v.viewKey] == v {
		delete(vs.byKey, v.viewKey)
		v.stale = true
	}
}

// mount makes v ready. It goes on when the first who asked has left: others
// may wait, and the next one will be glad.
func (vs *views) mount(ctx context.Context, v *view) {
	ctx, cancel := vs.s.cleanupContext(ctx)
	defer cancel()
	v.err = vs.s.mountView(ctx, v)
	if v.err != nil {
		vs.mu.Lock()
		if vs.byKey[v.viewKey] == v {
			delete(vs.byKey, v.viewKey) // the next one tries again
		}
		vs.mu.Unlock()
	}
	close(v.ready)
}

func (s *Store) mountView(ctx context.Context, v *view) (err error) {
	if v.dir, err = s.newDir(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.unmountView(ctx, v))
		}
	}()
	if v.name == "" {
		v.mounts = []mount.Mount{{Type: "bind", Source: filepath.Join(s.root, "empty"), Options: []string{"ro", "rbind"}}}
		return s.mountFor(v.ids, v.mounts, v.dir)
	}
	// Never a name that an earlier process had: containerd may know it still,
	// although the snapshotter has forgotten the view.
	key := "kiln-view-" + s.id + "-" + strings.ToLower(rand.Text())
	ctx = leases.WithLease(ctx, s.lease)
	v.mounts, err = s.store.Snapshots.View(ctx, key, v.name, snapshots.WithLabels(s.passing()))
	if err != nil {
		return err
	}
	v.key = key
	return s.mountFor(v.ids, v.mounts, v.dir)
}

func (s *Store) unmountView(ctx context.Context, v *view) error {
	err := unmountDir(v.dir)
	if v.key != "" {
		ctx = leases.WithLease(ctx, s.lease) // or it would name the view for ever
		if rerr := s.store.Snapshots.Remove(ctx, v.key); rerr != nil && !errdefs.IsNotFound(rerr) {
			s.views.leave(v.key)
			err = errors.Join(err, fmt.Errorf("remove view of layer %s: %w", v.name, rerr))
		}
	}
	return err
}

func (vs *views) release(v *view) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	v.refs--
	if v.refs == 0 && v.stale {
		vs.drop(v)
		return
	}
	if v.refs > 0 || vs.byKey[v.viewKey] != v { // in use, failed, or closed
		return
	}
	if vs.idle >= maxIdle || vs.linger < 0 {
		vs.drop(v)
		return
	}
	vs.idle++
	var timer *time.Timer
	timer = time.AfterFunc(vs.linger, func() {
		vs.mu.Lock()
		defer vs.mu.Unlock()
		if v.idle != timer || vs.byKey[v.viewKey] != v { // used again, or gone
			return
		}
		v.idle = nil
		vs.idle--
		vs.drop(v)
	})
	v.idle = timer
}

// drop unmounts a view that nobody uses. vs.mu is held.
func (vs *views) drop(v *view) {
	if vs.byKey[v.viewKey] == v {
		delete(vs.byKey, v.viewKey)
	}
	ended := make(chan struct{})
	vs.ending[v] = ended
	vs.work.Go(func() {
		if err := vs.unmount(v); err != nil {
			log.L.WithError(err).Warn("unmount layer")
		}
		vs.mu.Lock()
		delete(vs.ending, v)
		vs.mu.Unlock()
		close(ended)
	})
}

func (vs *views) unmount(v *view) error {
	<-v.ready
	if v.err != nil {
		return nil
	}
	ctx, cancel := vs.s.cleanupContext(context.Background())
	defer cancel()
	return vs.s.unmountView(ctx, v)
}

// Settle unmounts the layers that are only mounted because they may be used
// again, and waits for those that are being unmounted, so that a collection can
// remove them.
func (s *Store) Settle() error { return s.views.settle() }

func (vs *views) settle() error {
	errs := []error{vs.removeLeft()}
	vs.mu.Lock()
	var idle []*view
	for _, v := range vs.byKey {
		if v.idle != nil {
			v.idle.Stop()
			v.idle = nil
			vs.idle--
			delete(vs.byKey, v.viewKey)
			idle = append(idle, v)
		}
	}
	ending := slices.Collect(maps.Values(vs.ending))
	vs.mu.Unlock()
	for _, v := range idle {
		errs = append(errs, vs.unmount(v))
	}
	for _, ended := range ending {
		<-ended
	}
	return errors.Join(errs...)
}

// leave notes a view's snapshot that could not be removed, for instance because
// containerd is being restarted.
func (vs *views) leave(key string) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	vs.left = append(vs.left, key)
}

// removeLeft tries again to remove what was left.
func (vs *views) removeLeft() error {
	vs.mu.Lock()
	left := vs.left
	vs.left = nil
	vs.mu.Unlock()
	ctx, cancel := vs.s.cleanupContext(context.Background())
	defer cancel()
	var errs []error
	for _, key := range left {
		if err := vs.s.store.Snapshots.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
			vs.leave(key)
			errs = append(errs, fmt.Errorf("remove view %s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}

func (vs *views) close() error {
	err := vs.settle()
	vs.mu.Lock()
	vs.closed = true
	rest := vs.byKey
	vs.byKey = map[viewKey]*view{}
	vs.mu.Unlock()
	vs.work.Wait()
	errs := []error{err}
	for _, v := range rest {
		errs = append(errs, vs.unmount(v))
	}
	return errors.Join(errs...)
}
