// Package private keeps from containerd what only the engine needs so far, where
// the store has kiln's own snapshotter. A step would otherwise cost a dozen
// transactions in containerd's databases, many times the work itself; with a
// containerd of the host's, these are synced.
//
// What carries [store.LabelPrivate] is private: leases; and snapshots that are
// prepared, and views that are made, under a lease, and what stands on these.
// Snapshots are names in the engine's space of the snapshotter; which lease holds
// which is in a journal. In lists they are among containerd's, and they end as
// those do: when no lease holds them and nothing that is held stands on them or
// refers to them, the next sweep removes them.
//
// What private snapshots need of containerd (images' layers that they stand on,
// the blobs that their labels refer to) one lease of containerd's keeps, which
// is in no list here. A private lease becomes one of containerd's when something of
// containerd's is to be on it. A snapshot never does: an image gets it as an alias,
// see [store.Store.Offer].
//
// The journal is written behind: a process that is killed loses the entries of
// its last moments, and what they held is removed by the next one. The engine's
// records of that then lead to nothing, as after a collection.
package private

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/snapshotter"
)

// space is what is private in a store.
type space struct {
	under *store.Store // containerd's
	sn    *snapshotter.Snapshotter
	own   snapshotter.Private
	// handing: one lease at a time is handed over or deleted.
	handing sync.Mutex

	mu      sync.Mutex
	leases  map[string]*lease // all that are known, by id
	holders map[string]int    // how many leases hold a private snapshot
	pins    map[string]int    // what calls under way need, by name or digest

	needed   needed
	journal  journal
	sweeper  later
	sweeping sync.Mutex
}

// lease is a lease as it is in the journal, where one of containerd's is only if
// something private is on it.
type lease struct {
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	// Under: it is one of containerd's.
	Under bool `json:"under,omitempty"`
	// Names are the private snapshots on it.
	Names map[string]bool `json:"names,omitempty"`
}

// sweepAfter is how long removals are gathered before what they held is removed.
const sweepAfter = time.Second

// Wrap returns the store with private things, of which the leases are below root.
// sn is the snapshotter that the store reaches by way of containerd. Closing the
// store doesn't close it.
func Wrap(ctx context.Context, under *store.Store, sn *snapshotter.Snapshotter, root string) (*store.Store, error) {
	s, err := open(ctx, under, sn, root)
	if err != nil {
		return nil, err
	}
	w := *under
	w.Content = ingester{under.Content, s}
	w.Snapshots = snapshotsOf{under.Snapshots, s}
	w.Leases = manager{under.Leases, s}
	w.Images = imageStore{under.Images, s}
	w.Offer = s.offer
	w.Collect = s.collect
	w.Close = sync.OnceValue(func() error { return errors.Join(s.close(), under.Close()) })
	return &w, nil
}

// Clear removes what is left of the private things of a store that has another
// snapshotter than sn now.
func Clear(ctx context.Context, under *store.Store, sn *snapshotter.Snapshotter, root string) error {
	s, err := open(ctx, under, sn, root)
	if err != nil {
		return err
	}
	for _, id := range slices.Collect(maps.Keys(s.leases)) {
		s.take(id)
	}
	return errors.Join(s.sweep(under.Context(ctx)), s.close())
}

func open(ctx context.Context, under *store.Store, sn *snapshotter.Snapshotter, root string) (*space, error) {
	failed := func(err error) error {
		return fmt.Errorf("private store: %w (it is only a cache: %s may be removed)", err, root)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, failed(err)
	}
	id, err := store.Identity(filepath.Join(root, "id"))
	if err != nil {
		return nil, failed(err)
	}
	s := &space{
		under: under, sn: sn, own: sn.Private(),
		holders: map[string]int{}, pins: map[string]int{},
		needed: needed{lease: leases.Lease{ID: "kiln-private-" + id}},
	}
	if err := s.openJournal(filepath.Join(root, "journal.db")); err != nil {
		return nil, failed(err)
	}
	s.sweeper.start(sweepAfter, func() { s.sweepLater(ctx) })
	if err := s.reconcile(under.Context(ctx)); err != nil {
		return nil, errors.Join(failed(err), s.close())
	}
	return s, nil
}

func (s *space) close() error {
	s.sweeper.close()
	return s.closeJournal()
}

// reconcile drops what the journal has of leases and snapshots that are gone, and
// then what nothing holds.
func (s *space) reconcile(ctx context.Context) error {
	if err := s.dropDeleted(ctx); err != nil {
		return err
	}
	found, err := s.under.Leases.List(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	for _, l := range found {
		if s.leases[l.ID] == nil {
			s.leases[l.ID] = &lease{Under: true}
		}
	}
	for id, l := range s.leases {
		for name := range l.Names {
			if _, err := s.own.Stat(ctx, name); err != nil {
				delete(l.Names, name)
				s.journal.changed(id)
				continue
			}
			s.holders[name]++
		}
	}
	s.mu.Unlock()
	if err := s.loadNeeded(ctx); err != nil {
		return err
	}
	return s.sweep(ctx)
}

// dropDeleted forgets leases of containerd's that it has no more: they have
// expired, or others have deleted them.
func (s *space) dropDeleted(ctx context.Context) error {
	gone := map[string]bool{} // of those that were there before
	s.mu.Lock()
	for id, l := range s.leases {
		gone[id] = l.Under
	}
	s.mu.Unlock()
	found, err := s.under.Leases.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range found {
		gone[l.ID] = false
	}
	for id := range gone {
		if gone[id] {
			s.take(id)
		}
	}
	return nil
}

// collect removes what nothing holds, here and in containerd.
func (s *space) collect(ctx context.Context) error {
	if err := s.dropDeleted(ctx); err != nil {
		return err
	}
	if err := s.sweep(ctx); err != nil {
		return err
	}
	if err := s.under.Collect(ctx); err != nil {
		return err
	}
	return s.own.Cleanup(ctx)
}

// offer implements [store.Store.Offer].
func (s *space) offer(name, chainID string) (map[string]string, func(), error) {
	labels, withdraw, err := s.sn.Offer("", name, chainID)
	if errdefs.IsNotFound(err) {
		return s.sn.Offer(s.under.Namespace, name, chainID)
	}
	return labels, withdraw, err
}

func (s *space) resource(name string) leases.Resource {
	return leases.Resource{ID: name, Type: "snapshots/" + s.under.Snapshotter}
}

// private says whether there is a private snapshot of the name.
func (s *space) private(ctx context.Context, name string) (snapshots.Info, bool) {
	info, err := s.own.Stat(ctx, name)
	return info, err == nil
}
