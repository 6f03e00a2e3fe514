package private

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/kiln-build/kiln/snapshotter"
)

// contentType is the type of blobs among the resources of leases.
const contentType = "content"

// needed is the lease of containerd's on which is what private snapshots need. It
// is there while something is on it.
type needed struct {
	lease leases.Lease

	mu    sync.Mutex // held while something is put on the lease or taken off
	there map[leases.Resource]bool
	// asked are those that were asked for since the last sweep looked at what is
	// needed.
	asked map[leases.Resource]bool
}

// loadNeeded reads what an earlier process has put on the lease.
func (s *space) loadNeeded(ctx context.Context) error {
	n := &s.needed
	n.there, n.asked = map[leases.Resource]bool{}, map[leases.Resource]bool{}
	found, err := s.under.Leases.ListResources(ctx, n.lease)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	for _, r := range found {
		n.there[r] = true
	}
	return nil
}

// need puts something of containerd's on the lease. It has to be pinned until a
// private snapshot needs it.
func (s *space) need(ctx context.Context, r leases.Resource) error {
	n := &s.needed
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[r] = true
	if n.there[r] {
		return nil
	}
	if len(n.there) == 0 {
		if _, err := s.under.Leases.Create(ctx, leases.WithID(n.lease.ID)); err != nil && !errdefs.IsAlreadyExists(err) {
			return fmt.Errorf("lease %s: %w", n.lease.ID, err)
		}
	}
	if err := s.under.Leases.AddResource(ctx, n.lease, r); err != nil {
		return fmt.Errorf("keep %s: %w", r.ID, err)
	}
	n.there[r] = true
	return nil
}

// needNoMore takes off the lease what isn't needed.
func (s *space) needNoMore(ctx context.Context) error {
	n := &s.needed
	n.mu.Lock()
	clear(n.asked)
	var rest []leases.Resource
	for r := range n.there {
		rest = append(rest, r)
	}
	n.mu.Unlock()
	if len(rest) == 0 {
		return nil
	}
	needs, err := s.needs(ctx)
	if err != nil {
		return err
	}
	for _, r := range rest {
		if needs[r] {
			continue
		}
		if err := s.drop(ctx, r); err != nil {
			return fmt.Errorf("lease %s: %w", n.lease.ID, err)
		}
	}
	return nil
}

// needs is what private snapshots need of containerd, and what is pinned.
func (s *space) needs(ctx context.Context) (map[leases.Resource]bool, error) {
	all := map[leases.Resource]bool{}
	s.mu.Lock()
	for id := range s.pins { // whatever it is
		all[s.resource(id)], all[leases.Resource{ID: id, Type: contentType}] = true, true
	}
	s.mu.Unlock()
	err := s.own.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if _, kept := snapshotter.Kept(info.Name); kept {
			return nil
		}
		for _, r := range s.references(info.Labels) {
			all[r] = true
		}
		if name, kept := snapshotter.Kept(info.Parent); kept {
			all[s.resource(name)] = true
		}
		return nil
	})
	return all, err
}

func (s *space) drop(ctx context.Context, r leases.Resource) error {
	n := &s.needed
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.asked[r] {
		return nil
	}
	var err error
	if delete(n.there, r); len(n.there) == 0 {
		err = s.under.Leases.Delete(ctx, n.lease)
	} else {
		err = s.under.Leases.DeleteResource(ctx, n.lease, r)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		n.there[r] = true
		return err
	}
	return nil
}

// references are what labels refer to: blobs, and snapshots of this snapshotter.
func (s *space) references(labels map[string]string) (all []leases.Resource) {
	const contentRef, snapshotRef = "containerd.io/gc.ref.content.", "containerd.io/gc.ref.snapshot."
	for key, value := range labels {
		switch {
		case value == "":
		case strings.HasPrefix(key, contentRef):
			all = append(all, leases.Resource{ID: value, Type: contentType})
		case key == snapshotRef+s.under.Snapshotter:
			all = append(all, s.resource(value))
		}
	}
	return all
}

func (s *space) sweepLater(ctx context.Context) {
	ctx = s.under.Context(context.WithoutCancel(ctx))
	if err := s.sweep(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("remove private snapshots that nothing holds")
	}
}

// sweep removes the private snapshots that nothing holds, and what only they
// needed of containerd.
func (s *space) sweep(ctx context.Context) error {
	s.sweeping.Lock() // one at a time, see needed.asked
	defer s.sweeping.Unlock()
	unheld, err := s.unheld(ctx)
	if err != nil {
		return err
	}
	for _, name := range unheld {
		if err := s.removeUnheld(ctx, name); err != nil {
			return err
		}
	}
	return s.needNoMore(ctx)
}

// unheld lists the private snapshots that neither a lease nor a call under way
// holds, nor one that they hold; what stands on another one comes before it.
func (s *space) unheld(ctx context.Context) (names []string, _ error) {
	infos, above := map[string]snapshots.Info{}, map[string][]string{}
	err := s.own.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		infos[info.Name] = info
		above[info.Parent] = append(above[info.Parent], info.Name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var hold func(name string)
	hold = func(name string) {
		info, ok := infos[name]
		if !ok {
			return
		}
		delete(infos, name)
		hold(info.Parent)
		for _, r := range s.references(info.Labels) {
			hold(r.ID)
		}
	}
	s.mu.Lock() // what was found above is held since before it was made
	defer s.mu.Unlock()
	for name := range s.holders {
		hold(name)
	}
	for name := range infos {
		if s.pinned(name) {
			hold(name)
		}
	}
	var list func(name string)
	list = func(name string) {
		if _, ok := infos[name]; !ok {
			return
		}
		delete(infos, name)
		for _, child := range above[name] {
			list(child)
		}
		names = append(names, name)
	}
	for name := range infos {
		list(name)
	}
	return names, nil
}

// pinned says whether a call under way needs a private snapshot. s.mu is held.
func (s *space) pinned(name string) bool {
	kept, ok := snapshotter.Kept(name)
	return s.pins[name] > 0 || ok && s.pins[kept] > 0
}

// removeUnheld removes a snapshot unless something has come to need it.
func (s *space) removeUnheld(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holders[name] > 0 || s.pinned(name) {
		return nil
	}
	err := s.own.Remove(ctx, name)
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}
