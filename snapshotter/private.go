package snapshotter

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// Private are the names that only this process sees. They are made and removed
// in well under a millisecond, outlast the process but not a crash of the
// machine, and nobody else removes them.
type Private struct{ *space }

var (
	_ snapshots.Snapshotter = Private{}
	_ snapshots.Cleaner     = Private{}
)

// Close does nothing: [Snapshotter.Close] does.
func (p Private) Close() error { return nil }

// Private returns the engine's space of names.
func (s *Snapshotter) Private() Private { return Private{s.engine} }

// Keep gives the committed snapshot that containerd knows by a name in a
// namespace, and all below it, the same names here, so that something can stand
// on them however long containerd keeps them. Names that are taken already stay
// as they are.
func (s *Snapshotter) Keep(ctx context.Context, namespace, name string) error {
	var missing []*entry
	s.mu.Lock()
	e, err := s.findIn(namespace, name)
	for ; err == nil; e, err = s.find(e.parent) {
		k := &entry{kind: e.kind, node: e.node, created: e.created, updated: e.updated, labels: e.labels}
		k.name = containerdName(e.name)
		if k.parent = containerdName(e.parent); s.engine.entries[k.name] != nil {
			break
		}
		k.node.pin()
		missing = append(missing, k)
		if e.parent == "" {
			break
		}
	}
	s.mu.Unlock()
	for i := len(missing) - 1; i >= 0; i-- {
		k := missing[i]
		if err == nil {
			err = s.engine.insert(k, k.node.parent)
		}
		if err != nil {
			s.unpin(k.node)
		}
	}
	if err != nil {
		return fmt.Errorf("keep snapshot %q: %w", name, err)
	}
	return nil
}
