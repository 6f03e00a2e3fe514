package private

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/store"
)

// manager is containerd's lease manager with the private leases.
type manager struct {
	leases.Manager
	s *space
}

// Create implements [leases.Manager].
func (m manager) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	var l leases.Lease
	for _, opt := range opts {
		if err := opt(&l); err != nil {
			return l, err
		}
	}
	if l.ID != "" && l.Labels[store.LabelPrivate] != "" {
		l.CreatedAt = time.Now().UTC()
		return l, m.s.add(l.ID, &lease{Labels: l.Labels, Created: l.CreatedAt})
	}
	if m.s.known(l.ID) {
		return l, fmt.Errorf("lease %q: %w", l.ID, errdefs.ErrAlreadyExists)
	}
	l, err := m.Manager.Create(ctx, opts...)
	if err != nil {
		return l, err
	}
	return l, m.s.add(l.ID, &lease{Under: true})
}

// add adds a lease to the tables.
func (s *space) add(id string, l *lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[id] != nil {
		return fmt.Errorf("lease %q: %w", id, errdefs.ErrAlreadyExists)
	}
	s.leases[id] = l
	s.journal.changed(id)
	return nil
}

// Delete implements [leases.Manager]. What was private on the lease goes with the
// next sweep.
func (m manager) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	s := m.s
	s.handing.Lock()
	taken := s.take(l.ID)
	s.handing.Unlock()
	if taken != nil && !taken.Under {
		return nil
	}
	return m.Manager.Delete(ctx, l, opts...)
}

// take takes a lease out of the tables, and returns it; nil for none.
func (s *space) take(id string) *lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil {
		return nil
	}
	delete(s.leases, id)
	s.journal.changed(id)
	for name := range l.Names {
		s.released(name)
		s.sweeper.want()
	}
	return l
}

// List implements [leases.Manager].
func (m manager) List(ctx context.Context, fields ...string) ([]leases.Lease, error) {
	filter, err := filters.ParseAll(fields...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	s := m.s
	// Those that are handed over between the two are never missed, and there once.
	private := map[string]leases.Lease{}
	s.mu.Lock()
	for id, l := range s.leases {
		if !l.Under && filter.Match(adaptLease(id, l.Labels)) {
			private[id] = leases.Lease{ID: id, Labels: l.Labels, CreatedAt: l.Created}
		}
	}
	s.mu.Unlock()
	found, err := m.Manager.List(ctx, fields...)
	if err != nil {
		return nil, err
	}
	var all []leases.Lease
	for _, l := range found {
		delete(private, l.ID)
		if l.ID != s.needed.lease.ID {
			all = append(all, l)
		}
	}
	for _, l := range private {
		all = append(all, l)
	}
	return all, nil
}

// adaptLease shows a lease to filters, with the fields that containerd's have.
func adaptLease(id string, labels map[string]string) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch path[0] {
		case "id":
			return id, true
		case "labels":
			v, ok := labels[strings.Join(path[1:], ".")]
			return v, ok
		}
		return "", false
	})
}

// AddResource implements [leases.Manager].
func (m manager) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	if r.Type == m.s.resource("").Type {
		if _, ok := m.s.private(ctx, r.ID); ok {
			_, err := m.s.hold(ctx, l.ID, r.ID)
			return err
		}
	}
	if err := m.s.handOver(ctx, l.ID); err != nil {
		return err
	}
	return m.Manager.AddResource(ctx, l, r)
}

// DeleteResource implements [leases.Manager].
func (m manager) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	s := m.s
	s.mu.Lock()
	known := s.leases[l.ID]
	private := known != nil && (!known.Under || known.Names[r.ID])
	s.mu.Unlock()
	if private {
		s.release(l.ID, r.ID)
		s.sweeper.want()
		return nil
	}
	return m.Manager.DeleteResource(ctx, l, r)
}

// ListResources implements [leases.Manager].
func (m manager) ListResources(ctx context.Context, l leases.Lease) ([]leases.Resource, error) {
	s := m.s
	var all []leases.Resource
	s.mu.Lock()
	known := s.leases[l.ID]
	under := known == nil || known.Under
	if known != nil {
		for name := range known.Names {
			all = append(all, s.resource(name))
		}
	}
	s.mu.Unlock()
	if !under {
		return all, nil
	}
	found, err := m.Manager.ListResources(ctx, l)
	return append(all, found...), err
}

// hold puts a snapshot that is or will be private on a lease, and says whether it
// wasn't there. It fails with errdefs.ErrNotFound where there is no such lease.
func (s *space) hold(ctx context.Context, id, name string) (bool, error) {
	if !s.known(id) { // somebody else may have made it meanwhile
		if _, err := s.under.Leases.ListResources(ctx, leases.Lease{ID: id}); err != nil {
			return false, err
		}
		if err := s.add(id, &lease{Under: true}); err != nil && !errdefs.IsAlreadyExists(err) {
			return false, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil { // deleted meanwhile
		return false, fmt.Errorf("lease %q: %w", id, errdefs.ErrNotFound)
	}
	if l.Names[name] {
		return false, nil
	}
	if l.Names == nil {
		l.Names = map[string]bool{}
	}
	l.Names[name] = true
	s.holders[name]++
	s.journal.changed(id)
	return true, nil
}

func (s *space) known(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[id] != nil
}

// release takes a snapshot off a lease, that has gone or will with the next sweep.
func (s *space) release(id, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil || !l.Names[name] {
		return
	}
	delete(l.Names, name)
	s.journal.changed(id)
	s.released(name)
}

// released counts one holder less. s.mu is held.
func (s *space) released(name string) {
	if s.holders[name]--; s.holders[name] <= 0 {
		delete(s.holders, name)
	}
}

// handOver makes a lease, if it is private, one of containerd's.
func (s *space) handOver(ctx context.Context, id string) error {
	private := func() *lease {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l := s.leases[id]; l != nil && !l.Under {
			return l
		}
		return nil
	}
	if private() == nil {
		return nil
	}
	s.handing.Lock()
	defer s.handing.Unlock()
	l := private()
	if l == nil {
		return nil
	}
	_, err := s.under.Leases.Create(ctx, leases.WithID(id), leases.WithLabels(l.Labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("lease %s: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.Under = true
	s.journal.changed(id)
	return nil
}
