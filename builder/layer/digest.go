package layer

import (
	"container/list"
	"context"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/kiln-build/kiln/builder/layer/checksum"
)

// maxTrees bounds how many layers' digests are remembered.
const maxTrees = 128

// Digest returns the digest of what the selectors select of the layer's tree.
// What was read once is remembered for as long as the layer is among those used
// last. It fails with errdefs.ErrNotFound where a path does not exist.
func (s *Store) Digest(ctx context.Context, l *Layer, sel []checksum.Selector) (digest.Digest, error) {
	d, err := s.tree(l).Digest(ctx, sel)
	if err != nil {
		return "", fmt.Errorf("digest of layer %q: %w", l.name(), err)
	}
	return d, nil
}

// Changes tells where two layers' trees differ, at the paths or below them.
func (s *Store) Changes(ctx context.Context, before, after *Layer, paths []string) ([]checksum.Change, error) {
	changes, err := checksum.Changes(ctx, s.tree(before), s.tree(after), paths)
	if err != nil {
		return nil, fmt.Errorf("compare layers %q and %q: %w", before.name(), after.name(), err)
	}
	return changes, nil
}

func (s *Store) tree(l *Layer) *checksum.Tree {
	return s.digests.get(l.name(), func() *checksum.Tree {
		return checksum.NewLazy(func(ctx context.Context) (string, func(), error) { return s.Files(ctx, l) })
	})
}

// SetTree gives the digests of the layer with the name, so that its files don't
// have to be read.
func (s *Store) SetTree(name string, t *checksum.Tree) { s.digests.set(name, t) }

// digests are the trees that were used last, by layer.
type digests struct {
	mu     sync.Mutex
	byName map[string]*list.Element
	used   list.List // of namedTree, last used first
}

type namedTree struct {
	name string
	tree *checksum.Tree
}

func (d *digests) get(name string, make func() *checksum.Tree) *checksum.Tree {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.byName[name]; e != nil {
		d.used.MoveToFront(e)
		return e.Value.(namedTree).tree
	}
	t := make()
	d.put(namedTree{name, t})
	return t
}

func (d *digests) set(name string, t *checksum.Tree) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.byName[name]; e != nil {
		d.used.Remove(e)
	}
	d.put(namedTree{name, t})
}

// put needs d.mu.
func (d *digests) put(t namedTree) {
	if d.byName == nil {
		d.byName = map[string]*list.Element{}
	}
	d.byName[t.name] = d.used.PushFront(t)
	if d.used.Len() > maxTrees {
		oldest := d.used.Back()
		d.used.Remove(oldest)
		delete(d.byName, oldest.Value.(namedTree).name)
	}
}
