package private

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
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
	if l.ID == "" || l.Labels[store.LabelPrivate] == "" {
		return m.create(ctx, l.ID, opts)
	}
	s := m.s
	s.handing.Lock()
	defer s.handing.Unlock()
	if err := s.leased(ctx, l.ID); !errdefs.IsNotFound(err) {
		return l, errors.Join(err, fmt.Errorf("lease %q: %w", l.ID, errdefs.ErrAlreadyExists))
	}
	l.CreatedAt = time.Now().UTC()
	put(&s.journal, leaseKey(l.ID), lease{Labels: l.Labels, Created: l.CreatedAt})
	return l, nil
}

func (m manager) create(ctx context.Context, id string, opts []leases.Opt) (leases.Lease, error) {
	if _, ok, err := get[lease](&m.s.journal, leaseKey(id)); ok || err != nil {
		return leases.Lease{}, errors.Join(err, fmt.Errorf("lease %q: %w", id, errdefs.ErrAlreadyExists))
	}
	return m.Manager.Create(ctx, opts...)
}

// leased fails with errdefs.ErrNotFound where there is no such lease.
func (s *space) leased(ctx context.Context, id string) error {
	if _, ok, err := get[lease](&s.journal, leaseKey(id)); ok || err != nil {
		return err
	}
	_, err := s.under.Leases.ListResources(ctx, leases.Lease{ID: id})
	return err
}

// Delete implements [leases.Manager]. The lease goes first, then what is private
// on it: see [space.prepare].
func (m manager) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	s := m.s
	s.handing.Lock()
	_, private, err := get[lease](&s.journal, leaseKey(l.ID))
	if private {
		s.remove(leaseKey(l.ID))
	}
	s.handing.Unlock()
	if err != nil {
		return err
	}
	err = m.Manager.Delete(ctx, l, opts...)
	if private && errdefs.IsNotFound(err) {
		err = nil
	}
	s.handing.Lock()
	defer s.handing.Unlock()
	return errors.Join(err, s.dropAll(l.ID))
}

// dropAll removes the private snapshots that are on a lease. space.handing is held.
func (s *space) dropAll(id string) error {
	s.mu.Lock()
	for key, t := range s.active {
		if t.Lease == id {
			delete(s.active, key)
			s.discard(t)
		}
	}
	s.mu.Unlock()
	var names []string
	err := scan(&s.journal, onLease(id), func(name string, _ struct{}) error {
		names = append(names, name)
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		t, ok, err := s.committed(name)
		if err != nil {
			return err
		}
		if ok {
			s.drop(name, t)
		}
	}
	return nil
}

// List implements [leases.Manager].
func (m manager) List(ctx context.Context, fields ...string) ([]leases.Lease, error) {
	filter, err := filters.ParseAll(fields...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	var private []leases.Lease
	err = scan(&m.s.journal, leaseKey(""), func(id string, l lease) error {
		if filter.Match(adaptLease(id, l.Labels)) {
			private = append(private, leases.Lease{ID: id, Labels: l.Labels, CreatedAt: l.Created})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all, err := m.Manager.List(ctx, fields...)
	if err != nil {
		return nil, err
	}
	handed := map[string]bool{}
	for _, l := range all {
		handed[l.ID] = true
	}
	for _, l := range private {
		if !handed[l.ID] {
			all = append(all, l)
		}
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
			return label(labels, path[1:])
		}
		return "", false
	})
}

// label looks up what a filter names.
func label(labels map[string]string, path []string) (string, bool) {
	v, ok := labels[strings.Join(path, ".")]
	return v, ok
}

// AddResource implements [leases.Manager].
func (m manager) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	if strings.HasPrefix(r.Type, "snapshots/") {
		if err := m.s.settle(ctx, r.ID); err != nil {
			return err
		}
	}
	if err := m.s.handOverLease(ctx, l.ID); err != nil {
		return err
	}
	return m.Manager.AddResource(ctx, l, r)
}

// DeleteResource implements [leases.Manager].
func (m manager) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	s := m.s
	s.handing.Lock()
	t, ok, err := s.committed(r.ID)
	ok = ok && strings.HasPrefix(r.Type, "snapshots/") && t.Lease == l.ID
	if ok {
		s.drop(r.ID, t)
	}
	s.handing.Unlock()
	if ok || err != nil {
		return err
	}
	if _, private, err := get[lease](&s.journal, leaseKey(l.ID)); private || err != nil {
		return err // nothing else is on it
	}
	return m.Manager.DeleteResource(ctx, l, r)
}

// ListResources implements [leases.Manager].
func (m manager) ListResources(ctx context.Context, l leases.Lease) ([]leases.Resource, error) {
	s := m.s
	_, private, err := get[lease](&s.journal, leaseKey(l.ID))
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	err = scan(&s.journal, onLease(l.ID), func(name string, _ struct{}) error { found[name] = true; return nil })
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	for key, t := range s.active {
		if t.Lease == l.ID {
			found[key] = true
		}
	}
	s.mu.Unlock()
	all, err := m.Manager.ListResources(ctx, l)
	if err != nil && !(private && errdefs.IsNotFound(err)) {
		return nil, err
	}
	kind := "snapshots/" + s.under.Snapshotter
	for _, r := range all {
		if r.Type == kind {
			delete(found, r.ID)
		}
	}
	for name := range found {
		all = append(all, leases.Resource{ID: name, Type: kind})
	}
	return all, nil
}

// ingester is containerd's content store: what is written goes on a lease.
type ingester struct {
	content.Store
	s *space
}

// Writer implements [content.Ingester].
func (i ingester) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	if err := i.s.handOver(ctx); err != nil {
		return nil, err
	}
	return i.Store.Writer(ctx, opts...)
}

// imageStore is containerd's: an image goes on a lease.
type imageStore struct {
	images.Store
	s *space
}

// Create implements [images.Store].
func (i imageStore) Create(ctx context.Context, image images.Image) (images.Image, error) {
	if err := i.s.handOver(ctx); err != nil {
		return images.Image{}, err
	}
	return i.Store.Create(ctx, image)
}

// Update implements [images.Store].
func (i imageStore) Update(ctx context.Context, image images.Image, fieldpaths ...string) (images.Image, error) {
	if err := i.s.handOver(ctx); err != nil {
		return images.Image{}, err
	}
	return i.Store.Update(ctx, image, fieldpaths...)
}
