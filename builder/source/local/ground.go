package local

import (
	"time"

	"github.com/kiln-build/kiln/builder/layer"
)

// maxDepth is how many layers a transfer may consist of.
const maxDepth = 8

// foundation is what a new transfer is written on top of.
type foundation struct {
	layer *layer.Layer
	index *index
}

// foundation chooses it: the previous transfer, as long as that is no pile of
// many; then its lowest layer, so that the pile becomes one; and nothing, once
// that pile would be large compared with the whole.
func (s *shelf) foundation(previous *kept) foundation {
	if previous == nil || previous.layer == nil {
		return foundation{index: &index{}}
	}
	if previous.Depth < maxDepth {
		return foundation{previous.layer, previous.index}
	}
	if previous.Grown <= previous.GroundBytes/2 {
		for _, l := range previous.layer.Chain() {
			if l.Name != previous.Ground {
				continue
			}
			if x, err := s.index(l.Name); err == nil {
				return foundation{l, x}
			}
		}
	}
	return foundation{index: &index{}}
}

// newKept describes a layer that was written on top of below, with as many
// bytes of files.
func (t *transfer) newKept(l *layer.Layer, lease string, below foundation, written int64) *kept {
	now := time.Now().UTC()
	k := &kept{layer: l, index: &index{entries: t.entries}, state: state{
		Full: t.full, Base: t.base, Name: t.req.Name, Layer: l.Name, Lease: lease, Created: now, Used: now,
		Ground: l.Name, Depth: 1,
	}}
	switch {
	case below.layer == nil:
		k.GroundBytes = k.index.size()
	case t.previous != nil && below.layer == t.previous.layer:
		k.Ground, k.GroundBytes = t.previous.Ground, t.previous.GroundBytes
		k.Depth, k.Grown = t.previous.Depth+1, t.previous.Grown+written
	default:
		k.Ground, k.GroundBytes = below.layer.Name, below.index.size()
		k.Depth, k.Grown = 2, written
	}
	return k
}
