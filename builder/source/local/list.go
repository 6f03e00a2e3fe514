package local

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Kept describes a transfer that is kept for the next one of its kind.
type Kept struct {
	// Key names it for Remove.
	Key  string
	Name string // of the directory, as the client calls it
	// Layers are the names of the layers it consists of, lowest first. Another
	// transfer may have some of them too.
	Layers []string
	// Size in bytes on this machine's disk.
	Size          int64
	Created, Used time.Time
	// InUse: a running build has it.
	InUse bool
}

// List gives what is kept, sorted by key.
func (s *Source) List(ctx context.Context) ([]Kept, error) {
	ctx = s.cfg.Store.Context(ctx)
	s.shelf.mu.Lock()
	var states []state
	out := map[string]*Kept{}
	for _, st := range s.shelf.states {
		states = append(states, *st)
		u := s.shelf.leases[st.Lease]
		out[st.Full] = &Kept{Key: st.Full, Name: st.Name, Created: st.Created, Used: st.Used, InUse: u != nil && u.users > 0}
	}
	s.shelf.mu.Unlock()
	slices.SortFunc(states, func(a, b state) int { return strings.Compare(a.Full, b.Full) })
	var list []Kept
	for _, st := range states {
		k := out[st.Full]
		l, err := s.cfg.Layers.Open(ctx, st.Layer)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, part := range l.Chain() {
			size, err := s.cfg.Layers.Size(ctx, part)
			if err != nil && !errdefs.IsNotFound(err) {
				return nil, err
			}
			k.Size += size
			k.Layers = append(k.Layers, part.Name)
		}
		list = append(list, *k)
	}
	return list, nil
}

// Remove forgets a transfer. It fails with errdefs.ErrNotFound where there is
// none of that key. Builds that have it keep it.
func (s *Source) Remove(ctx context.Context, key string) error {
	return s.shelf.Remove(s.cfg.Store.Context(ctx), key)
}
