// Package private keeps from containerd what only the engine needs so far. A
// step that makes a small tree on nothing would otherwise cost a dozen
// transactions in containerd's databases, many times the work itself.
//
// What carries [store.LabelPrivate] is private: leases, and snapshots without a
// parent that are prepared under a lease. A private snapshot is a directory and
// an entry in a journal; its lease is another entry. They are in all lists, and
// end with their leases as any other.
//
// The moment that containerd has to know of one it is handed over, and then is
// like any other: a lease when something of containerd's is to be on it, a
// snapshot when something is to stand on it, be mounted, refer or be referred to
// (its tree is moved, not copied). So the two never refer to each other.
//
// The journal is written behind: a process that is killed loses the entries of
// its last moments, and their trees are removed by the next one. The engine's
// records of them then lead to nothing, as after a collection.
package private

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/boltcheck"
	"github.com/kiln-build/kiln/builder/store"
)

// space is what is private in a store.
type space struct {
	under *store.Store // containerd's
	trees string       // the directory of the trees
	journal

	mu     sync.Mutex
	active map[string]*tree // unfinished snapshots, by key

	// handing: one thing at a time is handed over or removed.
	handing sync.Mutex
	trash   trash
}

// tree is a private snapshot, as it is in the journal.
type tree struct {
	Dir    string            `json:"dir"` // its name below space.trees
	Lease  string            `json:"lease"`
	Labels map[string]string `json:"labels,omitempty"`
	// Working are the labels that it had before it was committed.
	Working map[string]string `json:"working,omitempty"`
	Created time.Time         `json:"created"`
	// Size and Inodes are what it takes on disk, once somebody has asked.
	Size   int64 `json:"size,omitempty"`
	Inodes int64 `json:"inodes,omitempty"`
}

// lease is a private lease, as it is in the journal.
type lease struct {
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
}

// Keys of the journal.
func leaseKey(id string) string         { return "lease/" + id }
func treeKey(name string) string        { return "tree/" + name }
func onLease(id string) string          { return "on/" + id + "\x00" }
func onLeaseKey(id, name string) string { return onLease(id) + name }

// Wrap returns the store with private things, which are kept below root.
func Wrap(ctx context.Context, under *store.Store, root string) (*store.Store, error) {
	s := &space{under: under, trees: filepath.Join(root, "trees"), active: map[string]*tree{}}
	db := filepath.Join(root, "journal.db")
	if err := boltcheck.File(db); errdefs.IsDataLoss(err) {
		if err := os.RemoveAll(root); err != nil {
			return nil, fmt.Errorf("private store: %w", err)
		}
	}
	if err := os.MkdirAll(s.trees, 0o700); err != nil {
		return nil, fmt.Errorf("private store: %w", err)
	}
	if err := s.journal.open(db); err != nil {
		return nil, fmt.Errorf("private store: open %s: %w (it is only a cache: %s may be removed)", db, err, root)
	}
	if err := s.reconcile(under.Context(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("private store: %w (it is only a cache: %s may be removed)", err, root), s.journal.close())
	}
	w := *under
	w.Content = ingester{under.Content, s}
	w.Snapshots = snapshotter{under.Snapshots, s}
	w.Leases = manager{under.Leases, s}
	w.Images = imageStore{under.Images, s}
	w.Comparer = walking.NewWalkingDiff(w.Content)
	w.Collect = func(ctx context.Context) error {
		s.trash.wait()
		return under.Collect(ctx)
	}
	w.Close = func() error {
		s.trash.wait()
		return errors.Join(s.journal.close(), under.Close())
	}
	return &w, nil
}

// reconcile removes the entries that have no tree or no lease, and the trees
// that have no entry.
func (s *space) reconcile(ctx context.Context) error {
	held, err := s.under.Leases.List(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, l := range held {
		known[l.ID] = true
	}
	err = scan(&s.journal, leaseKey(""), func(id string, _ lease) error { known[id] = true; return nil })
	if err != nil {
		return err
	}
	left, err := os.ReadDir(s.trees)
	if err != nil {
		return err
	}
	stray := map[string]bool{}
	for _, e := range left {
		stray[e.Name()] = true
	}
	err = scan(&s.journal, treeKey(""), func(name string, t tree) error {
		if !known[t.Lease] || !stray[t.Dir] {
			s.forget(name, t)
			return nil
		}
		delete(stray, t.Dir)
		return nil
	})
	if err != nil {
		return err
	}
	for name := range stray {
		if err := os.RemoveAll(filepath.Join(s.trees, name)); err != nil {
			return err
		}
	}
	return nil
}

// keep adds a snapshot to the journal.
func (s *space) keep(name string, t tree) {
	put(&s.journal, treeKey(name), t)
	put(&s.journal, onLeaseKey(t.Lease, name), struct{}{})
}

// forget takes a snapshot out of the journal.
func (s *space) forget(name string, t tree) {
	s.remove(treeKey(name))
	s.remove(onLeaseKey(t.Lease, name))
}

func (s *space) dir(t *tree) string { return filepath.Join(s.trees, t.Dir) }

// committed finds a private snapshot that is finished.
func (s *space) committed(name string) (tree, bool, error) {
	return get[tree](&s.journal, treeKey(name))
}

// working finds a private snapshot that isn't finished, nil if there is none.
func (s *space) working(key string) *tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active[key]
}

// handOver makes the lease that ctx carries, if it is private, one of
// containerd's.
func (s *space) handOver(ctx context.Context) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	return s.handOverLease(ctx, id)
}

func (s *space) handOverLease(ctx context.Context, id string) error {
	if _, ok, err := get[lease](&s.journal, leaseKey(id)); !ok {
		return err
	}
	s.handing.Lock()
	defer s.handing.Unlock()
	return s.handOverLeaseLocked(ctx, id)
}

func (s *space) handOverLeaseLocked(ctx context.Context, id string) error {
	l, ok, err := get[lease](&s.journal, leaseKey(id))
	if !ok {
		return err
	}
	_, err = s.under.Leases.Create(ctx, leases.WithID(id), leases.WithLabels(l.Labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("lease %s: %w", id, err)
	}
	s.remove(leaseKey(id))
	return nil
}
