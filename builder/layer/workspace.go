package layer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/store"
)

// Workspace is a tree that is being written. It isn't safe for concurrent use,
// but several workspaces may stand for the same persistent tree.
type Workspace struct {
	s          *Store
	tree       *tree
	parent     *Layer
	ground     *ground // of the snapshot, which has the parent's tree
	lease      string
	persistent bool
	mounted    bool // this workspace counts in tree.users
	gone       bool // committed or discarded
}

// Meta describes the layer that a workspace becomes.
type Meta struct {
	Created     time.Time // zero is now
	Description string
}

// NewWorkspace makes a writable tree on top of parent, which may be nil. It
// belongs to the lease that ctx carries; end it with Commit or Discard.
func (s *Store) NewWorkspace(ctx context.Context, parent *Layer) (*Workspace, error) {
	key := "kiln-work-" + strings.ToLower(rand.Text())
	labels := s.passing()
	labels[store.LabelPrivate] = "true"
	g, err := s.groundFor(ctx, parent)
	if err != nil {
		return nil, err
	}
	on := parent
	if g != nil {
		on = &Layer{Name: g.name}
	}
	t, err := s.prepare(ctx, key, on, labels)
	if err != nil {
		return nil, err
	}
	lease, _ := leases.FromContext(ctx)
	return &Workspace{s: s, tree: t, parent: parent, ground: g, lease: lease}, nil
}

// OpenWorkspace returns the writable tree with the name, which outlives the
// process; it is made on top of parent if absent. It is added to the lease that
// ctx carries. End it with Unmount; Discard removes the tree. All workspaces of
// one name show the same tree at the same time.
func (s *Store) OpenWorkspace(ctx context.Context, name string, parent *Layer) (*Workspace, error) {
	key := persistentKey(name)
	unlock, err := s.trees.opening.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := s.prepare(ctx, key, parent, map[string]string{labelPersistent: s.id})
	if errdefs.IsAlreadyExists(err) {
		t, err = s.reopen(ctx, key, parent)
	}
	if err != nil {
		return nil, fmt.Errorf("workspace %q: %w", name, err)
	}
	t = s.trees.keep(t)
	lease, _ := leases.FromContext(ctx)
	return &Workspace{s: s, tree: t, parent: parent, lease: lease, persistent: true}, nil
}

// persistentKey names the snapshot of a persistent tree, whatever is in its own
// name.
func persistentKey(name string) string {
	return fmt.Sprintf("kiln-keep-%x", sha256.Sum256([]byte(name)))
}

func (s *Store) prepare(ctx context.Context, key string, parent *Layer, labels map[string]string) (*tree, error) {
	mounts, err := s.store.Snapshots.Prepare(s.store.Context(ctx), key, parent.name(), snapshots.WithLabels(labels))
	if err != nil {
		return nil, fmt.Errorf("prepare a tree on layer %q: %w", parent.name(), noSpace(err))
	}
	return &tree{s: s, key: key, mounts: mounts, sync: labels[labelPersistent] != ""}, nil
}

// reopen returns a persistent tree that exists and is on the lease already.
func (s *Store) reopen(ctx context.Context, key string, parent *Layer) (*tree, error) {
	ctx = s.store.Context(ctx)
	info, err := s.store.Snapshots.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if info.Parent != parent.name() {
		return nil, fmt.Errorf("it stands on layer %q, not on %q: %w", info.Parent, parent.name(), errdefs.ErrFailedPrecondition)
	}
	mounts, err := s.store.Snapshots.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return &tree{s: s, key: key, mounts: mounts, sync: true}, nil
}

func (l *Layer) name() string {
	if l == nil {
		return ""
	}
	return l.Name
}

// Dir returns a directory with the tree, writable; it is mounted at the first
// call and stays until Unmount, Commit or Discard.
func (w *Workspace) Dir(context.Context) (string, error) { return w.DirFor(nil) }

// DirFor is Dir for processes whose users are those of ids; what they make there lies
// on disk as that of the users that they see. A tree that is mounted for others is
// errdefs.ErrFailedPrecondition.
func (w *Workspace) DirFor(ids *idmap.Map) (string, error) {
	if w.gone {
		return "", fmt.Errorf("workspace %s has ended: %w", w.tree.key, errdefs.ErrFailedPrecondition)
	}
	if !w.mounted {
		if err := w.tree.mount(ids); err != nil {
			return "", fmt.Errorf("workspace %s: %w", w.tree.key, err)
		}
		w.mounted = true
	}
	return w.tree.dir, nil
}

// Unmount ends the use of the directory. The tree stays.
func (w *Workspace) Unmount() error {
	if !w.mounted {
		return nil
	}
	w.mounted = false
	return w.tree.unmount()
}

// Commit makes a layer of the tree, on the lease that ctx carries, and ends the
// workspace. After an error the workspace is as before, but unmounted.
func (w *Workspace) Commit(ctx context.Context, meta Meta) (*Layer, error) {
	if w.gone || w.persistent {
		return nil, fmt.Errorf("workspace %s can't be committed: %w", w.tree.key, errdefs.ErrFailedPrecondition)
	}
	if err := w.Unmount(); err != nil {
		return nil, err
	}
	if meta.Created.IsZero() {
		meta.Created = time.Now()
	}
	l := &Layer{
		Name: "kiln-" + strings.ToLower(rand.Text()), Parent: w.parent,
		Created: meta.Created.UTC(), Description: meta.Description, Lease: w.lease,
		dir: w.committedDir(),
	}
	if lease, ok := leases.FromContext(ctx); ok {
		l.Lease = lease
	}
	l.ground = newGround(l.Name, w.ground, 0)
	labels := map[string]string{
		labelCreated:     l.Created.Format(time.RFC3339Nano),
		labelDescription: cut(l.Description, maxDescription),
		labelLease:       l.Lease,
	}
	w.s.parentLabels(labels, l)
	if err := w.s.store.Snapshots.Commit(w.s.store.Context(ctx), l.Name, w.tree.key, snapshots.WithLabels(labels)); err != nil {
		return nil, fmt.Errorf("commit workspace %s: %w", w.tree.key, noSpace(err))
	}
	w.gone = true
	return l, nil
}

// Discard removes the tree. It does nothing after Commit or Discard, and works
// although ctx has ended. A persistent tree that another workspace has mounted
// is left alone, with errdefs.ErrFailedPrecondition.
func (w *Workspace) Discard(ctx context.Context) error {
	if w.gone {
		return nil
	}
	err := w.Unmount()
	if rerr := w.s.removeTree(ctx, w.tree); rerr != nil && !errdefs.IsNotFound(rerr) {
		return errors.Join(err, rerr)
	}
	w.gone = true
	return err
}

// RemoveWorkspace removes the persistent tree with the name, although ctx may
// have ended. It fails with errdefs.ErrNotFound where there is none, and with
// errdefs.ErrFailedPrecondition where it is mounted.
func (s *Store) RemoveWorkspace(ctx context.Context, name string) error {
	key := persistentKey(name)
	unlock, err := s.trees.opening.lock(context.WithoutCancel(ctx), key)
	if err != nil {
		return err
	}
	defer unlock()
	return s.removeTree(ctx, s.trees.keep(&tree{s: s, key: key}))
}

func (s *Store) removeTree(ctx context.Context, t *tree) error {
	ctx, cancel := s.cleanupContext(ctx)
	defer cancel()
	if !s.trees.forget(t) {
		return fmt.Errorf("workspace %s is in use: %w", t.key, errdefs.ErrFailedPrecondition)
	}
	if err := s.store.Snapshots.Remove(ctx, t.key); err != nil {
		return fmt.Errorf("remove workspace %s: %w", t.key, err)
	}
	return nil
}

// Size returns the bytes on disk of what was written so far.
func (w *Workspace) Size(ctx context.Context) (int64, error) {
	u, err := w.s.store.Snapshots.Usage(w.s.store.Context(ctx), w.tree.key)
	if err != nil {
		return 0, fmt.Errorf("size of workspace %s: %w", w.tree.key, err)
	}
	return u.Size, nil
}

// cut shortens text to at most n bytes without splitting a character.
func cut(text string, n int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
