package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/layer"
)

// state is what is written down of a kept transfer.
type state struct {
	Full    string    `json:"full"` // the selection it is of
	Base    string    `json:"base"` // the directory it is of
	Name    string    `json:"name"` // of the directory
	Layer   string    `json:"layer"`
	Lease   string    `json:"lease"` // keeps the layer
	Created time.Time `json:"created"`
	Used    time.Time `json:"used"`

	// The layer stands on Depth-1 others, of which Ground is the lowest.
	Ground      string `json:"ground"`
	Depth       int    `json:"depth"`
	GroundBytes int64  `json:"groundBytes"`
	Grown       int64  `json:"grown"` // bytes in the layers above Ground
}

// kept is a transfer with its layer and what is in it.
type kept struct {
	state
	layer *layer.Layer // nil: it is empty, and not on the shelf
	index *index
}

// shelf keeps the latest transfer of each directory and selection. On disk
// there is a file "state-KEY" for each and a file "index-LAYER" for each layer
// that another transfer may stand on; losing them costs a transfer.
type shelf struct {
	cfg Config
	id  string // marks what belongs to this shelf

	mu      sync.Mutex
	states  map[string]*state // by Full
	latest  map[string]string // Full, by Base
	leases  map[string]*leaseUse
	indexes indexCache
}

// take gives what is kept of a selection, or else the latest of the directory;
// nil if there is nothing. It must be returned with giveBack.
func (s *shelf) take(ctx context.Context, base, full string) (*kept, error) {
	for {
		st, ok := s.find(base, full)
		if !ok {
			return nil, nil
		}
		l, err := s.cfg.Layers.Open(ctx, st.Layer)
		var x *index
		if err == nil {
			x, err = s.index(st.Layer)
		}
		if err == nil {
			return &kept{state: st, layer: l, index: x}, nil
		}
		s.release(st.Lease)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !errdefs.IsNotFound(err) && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errIndex) {
			return nil, err
		}
		if err := s.Remove(ctx, st.Full); err != nil { // somebody has deleted it
			return nil, err
		}
	}
}

func (s *shelf) giveBack(k *kept) {
	if k != nil {
		s.release(k.Lease)
	}
}

// find also makes sure that the lease stays.
func (s *shelf) find(base, full string) (state, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.states[full]
	if st == nil {
		st = s.states[s.latest[base]]
	}
	if st == nil {
		return state{}, false
	}
	st.Used = time.Now()
	s.acquireLocked(st.Lease)
	return *st, true
}

// put makes a transfer the latest of its selection.
func (s *shelf) put(ctx context.Context, k *kept) error {
	if err := s.setIndex(k.Layer, k.index); err != nil {
		return err
	}
	st := k.state
	if err := s.save(st); err != nil {
		return err
	}
	s.mu.Lock()
	old := s.states[k.Full]
	s.states[k.Full], s.latest[k.Base] = &st, k.Full
	s.mu.Unlock()
	if old != nil {
		s.retire(ctx, old)
	}
	return nil
}

func (s *shelf) save(st state) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return writeFile(s.file("state-", st.Full), b)
}

func (s *shelf) file(kind, name string) string {
	return filepath.Join(s.cfg.Root, kind+filepath.Base(name))
}

// setIndex notes what is in a layer.
func (s *shelf) setIndex(layer string, x *index) error {
	s.mu.Lock()
	s.indexes.put(layer, x)
	s.mu.Unlock()
	return writeFile(s.file("index-", layer), x.encode())
}

func (s *shelf) index(layer string) (*index, error) {
	s.mu.Lock()
	x := s.indexes.get(layer)
	s.mu.Unlock()
	if x != nil {
		return x, nil
	}
	b, err := os.ReadFile(s.file("index-", layer))
	if err != nil {
		return nil, err
	}
	if x, err = decodeIndex(b); err != nil {
		return nil, fmt.Errorf("%s: %w", layer, err)
	}
	s.mu.Lock()
	s.indexes.put(layer, x)
	s.mu.Unlock()
	return x, nil
}

// retire forgets what a replaced transfer doesn't share with its successor.
func (s *shelf) retire(ctx context.Context, old *state) {
	s.dropLease(ctx, old.Lease)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range []string{old.Layer, old.Ground} {
		if !s.wantedLocked(name) {
			s.indexes.drop(name)
			if err := os.Remove(s.file("index-", name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				log.G(ctx).WithError(err).Warn("forget a local source")
			}
		}
	}
}

func (s *shelf) wantedLocked(layer string) bool {
	for _, st := range s.states {
		if st.Layer == layer || st.Ground == layer {
			return true
		}
	}
	return false
}

// Remove takes a transfer off the shelf. Builds that have it keep it.
func (s *shelf) Remove(ctx context.Context, full string) error {
	s.mu.Lock()
	st := s.states[full]
	delete(s.states, full)
	if st != nil && s.latest[st.Base] == full {
		delete(s.latest, st.Base)
		for _, other := range s.states {
			if other.Base == st.Base {
				s.latest[st.Base] = other.Full
			}
		}
	}
	s.mu.Unlock()
	if st == nil {
		return fmt.Errorf("local source %s: %w", full, errdefs.ErrNotFound)
	}
	s.retire(ctx, st)
	if err := os.Remove(s.file("state-", full)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// load reads what earlier processes have kept.
func (s *shelf) load() error {
	files, err := os.ReadDir(s.cfg.Root)
	if err != nil {
		return err
	}
	for _, f := range files {
		name, ok := strings.CutPrefix(f.Name(), "state-")
		if !ok {
			continue
		}
		b, err := os.ReadFile(filepath.Join(s.cfg.Root, f.Name()))
		if err != nil {
			return err
		}
		var st state
		if json.Unmarshal(b, &st) != nil || st.Full != name || st.Layer == "" {
			os.Remove(filepath.Join(s.cfg.Root, f.Name())) // torn
			continue
		}
		s.states[name] = &st
		if cur := s.states[s.latest[st.Base]]; cur == nil || cur.Created.Before(st.Created) {
			s.latest[st.Base] = name
		}
	}
	for _, f := range files {
		name, ok := strings.CutPrefix(f.Name(), "index-")
		if ok && !s.wantedLocked(name) || strings.HasPrefix(f.Name(), ".new-") {
			os.Remove(filepath.Join(s.cfg.Root, f.Name()))
		}
	}
	return nil
}
