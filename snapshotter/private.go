package snapshotter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
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
// namespace, and all below it, names here, and returns that of the snapshot: so
// something can stand on it however long containerd keeps it.
func (s *Snapshotter) Keep(ctx context.Context, namespace, name string) (string, error) {
	var missing []*entry
	s.mu.Lock()
	e, err := s.findIn(namespace, name)
	if err == nil && e.kind != snapshots.KindCommitted {
		err = fmt.Errorf("it isn't committed: %w", errdefs.ErrInvalidArgument)
	}
	top := ""
	if err == nil {
		top = keptName(e)
	}
	for err == nil && e != nil && s.engine.entries[keptName(e)] == nil {
		k := &entry{name: keptName(e), kind: e.kind, node: e.node, created: e.created, updated: e.updated}
		if e = s.entries[e.parent]; e != nil {
			k.parent = keptName(e)
		}
		k.node.pin()
		missing = append(missing, k)
	}
	s.mu.Unlock()
	for _, k := range slices.Backward(missing) {
		if err == nil {
			err = s.engine.insert(k, k.node.parent)
		}
		if err != nil {
			s.unpin(k.node)
		}
		if errdefs.IsAlreadyExists(err) { // somebody else keeps it, too
			err = nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("keep snapshot %q: %w", name, err)
	}
	return top, nil
}

// keptName is that which Keep gives: kept/DIRECTORY/NAME. So one that was removed
// and made again, in other directories, is another one.
func keptName(e *entry) string { return "kept/" + e.node.id + "/" + containerdName(e.name) }

// Kept is the name that containerd knows a snapshot by which was given the name by
// Keep; ok is false for any other name.
func Kept(name string) (containerd string, ok bool) {
	rest, ok := strings.CutPrefix(name, "kept/")
	_, containerd, found := strings.Cut(rest, "/")
	return containerd, ok && found
}
