// Package layer holds the file trees of builds.
//
// A [Layer] is an immutable tree: a committed snapshot on top of its parent's.
// A [Workspace] is a tree that is being written; committing it makes a layer.
// Layers come from workspaces and from the blobs of images ([Store.Unpack]),
// and become blobs again ([Store.Blobs]).
//
// Whatever is made here belongs to the lease of the context that it was made
// with. Mounts live below the store's root and are gone after [Store.Close];
// what a killed process left is removed by [New].
package layer

import "time"

// Layer is an immutable file tree: a committed snapshot on top of its parent's.
// A nil *Layer is the empty tree.
type Layer struct {
	// Name is the snapshot's. It is a chain ID where the layer came from an
	// image, else random.
	Name   string
	Parent *Layer
	// Created is when the tree was made, not when it came to this machine.
	Created     time.Time
	Description string
	// Lease is the one that the layer was made or found under; "" for none.
	Lease string

	// dir, if not "", has all of the tree; for [Store.Files].
	dir string
	// ground is what trees on the layer stand on, unless too much lies there
	// already; nil if that isn't known.
	ground *ground
	// source is the blob that the layer was unpacked from; nil for none.
	source *Blob
	// remote: there is no snapshot, see [Remote].
	remote bool
}

// Lazy tells whether a part of the tree may be shown without having been fetched.
func (l *Layer) Lazy() bool {
	for ; l != nil; l = l.Parent {
		if l.source != nil && Lazy(l.source.Desc) {
			return true
		}
	}
	return false
}

// Chain returns the layers that make up the tree, lowest first.
func (l *Layer) Chain() []*Layer {
	n := 0
	for p := l; p != nil; p = p.Parent {
		n++
	}
	chain := make([]*Layer, n)
	for p := l; p != nil; p = p.Parent {
		n--
		chain[n] = p
	}
	return chain
}
