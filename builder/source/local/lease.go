package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/store"
)

// leaseLabel is on the leases of a shelf, with the shelf's id.
const leaseLabel = "kiln.build/local"

// cleanupTimeout bounds what is done after a context has ended.
const cleanupTimeout = time.Minute

// leaseUse counts who needs what a lease keeps.
type leaseUse struct {
	users   int
	retired bool // off the shelf: the last user deletes it
}

func openShelf(ctx context.Context, cfg Config) (*shelf, error) {
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, err
	}
	s := &shelf{cfg: cfg, states: map[string]*state{}, latest: map[string]string{}, leases: map[string]*leaseUse{}}
	var err error
	if s.id, err = store.Identity(filepath.Join(cfg.Root, "id")); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	ctx = cfg.Store.Context(ctx)
	return s, errors.Join(s.dropLost(ctx), s.dropStrays(ctx))
}

// dropLost takes transfers off the shelf whose layers are gone: with a machine
// that went down, or another snapshotter.
func (s *shelf) dropLost(ctx context.Context) error {
	for full, st := range maps.Clone(s.states) {
		_, err := s.cfg.Layers.Open(ctx, st.Layer)
		if errdefs.IsNotFound(err) {
			err = s.Remove(ctx, full)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dropStrays deletes leases of transfers that are not on the shelf.
func (s *shelf) dropStrays(ctx context.Context) error {
	found, err := s.cfg.Store.Leases.List(ctx, s.cfg.Store.Marked(leaseLabel, s.id))
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, st := range s.states {
		known[st.Lease] = true
	}
	for _, l := range found {
		if known[l.ID] {
			continue
		}
		if err := s.cfg.Store.Leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// newLease makes the lease of a transfer. The caller is its user.
func (s *shelf) newLease(ctx context.Context, full string) (string, error) {
	id := "kiln-local-" + full + "-" + strings.ToLower(rand.Text())
	_, err := s.cfg.Store.Leases.Create(ctx, leases.WithID(id), leases.WithLabel(leaseLabel, s.id))
	if err != nil {
		return "", fmt.Errorf("lease: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acquireLocked(id)
	return id, nil
}

// dropLease says that a lease isn't needed any more but by those who use it.
func (s *shelf) dropLease(ctx context.Context, id string) {
	s.mu.Lock()
	u := s.leases[id]
	if u != nil && u.users > 0 {
		u.retired = true
		s.mu.Unlock()
		return
	}
	delete(s.leases, id)
	s.mu.Unlock()
	s.deleteLease(ctx, id)
}

func (s *shelf) deleteLease(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(s.cfg.Store.Context(context.WithoutCancel(ctx)), cleanupTimeout)
	defer cancel()
	if err := s.cfg.Store.Leases.Delete(ctx, leases.Lease{ID: id}); err != nil && !errdefs.IsNotFound(err) {
		log.G(ctx).WithError(err).Warn("delete the lease of a local source")
	}
}

func (s *shelf) acquireLocked(id string) {
	u := s.leases[id]
	if u == nil {
		u = &leaseUse{}
		s.leases[id] = u
	}
	u.users++
}

func (s *shelf) release(id string) {
	s.mu.Lock()
	u := s.leases[id]
	if u == nil {
		s.mu.Unlock()
		return
	}
	u.users--
	gone := u.users == 0
	if gone {
		delete(s.leases, id)
	}
	s.mu.Unlock()
	if gone && u.retired {
		s.deleteLease(context.Background(), id)
	}
}

// lend lets a build have a transfer until ctx ends, whatever happens to it here.
func (s *shelf) lend(ctx context.Context, k *kept) {
	s.mu.Lock()
	s.acquireLocked(k.Lease)
	s.mu.Unlock()
	context.AfterFunc(ctx, func() { s.release(k.Lease) })
}
