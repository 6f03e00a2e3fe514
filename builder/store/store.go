// Package store is what the engine asks of containerd: the content, one
// snapshotter, the leases and the images of one namespace. The engine never
// asks which backend is behind it: store/embedded runs containerd's libraries in
// this process, store/host talks to the containerd of this machine.
package store

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Store is one snapshotter of one containerd namespace with what belongs to
// it. The fields' methods need a context from [Store.Context]; what they make
// is collected unless the context carries a lease or something refers to it.
type Store struct {
	Content   content.Store
	Snapshots snapshots.Snapshotter
	Leases    leases.Manager
	Images    images.Store
	Applier   diff.Applier

	// Namespace and Snapshotter are names, as containerd's clients use them.
	Namespace   string
	Snapshotter string

	// Host is nil when containerd isn't a process of its own.
	Host *HostInfo
	// Root is the directory of a containerd that isn't a process of its own, ""
	// of one that is.
	Root string
	// Overhead is how many bytes on disk Root takes besides the blobs and the
	// trees of snapshots: databases and directories. nil where Root is "".
	Overhead func() (int64, error)

	// Offer, where it isn't nil, lets a committed snapshot get the chain ID of
	// the layer that it is as another name, without a copy: Prepare with the
	// labels, and with the parent's chain ID, then fails with
	// errdefs.ErrAlreadyExists. If it doesn't fail, this wasn't possible. It
	// fails with errdefs.ErrNotFound where the snapshotter isn't kiln's own.
	// withdraw must be called after Prepare.
	Offer func(name, chainID string) (labels map[string]string, withdraw func(), err error)

	// Collect removes everything that nothing refers to and returns when it is
	// gone. Use [Store.GC].
	Collect func(ctx context.Context) error
	// Close gives up the backend. Nothing of the store may be used after it.
	Close func() error
}

// LabelPrivate is put, with any value, on leases and on snapshots of which
// containerd need not know, which spares most of their cost: see store/private. A
// store may take no notice. Names of private snapshots must be unique for ever.
const LabelPrivate = "kiln.build/private"

// HostInfo says which containerd a store belongs to.
type HostInfo struct {
	Address string // of the socket, without a scheme
	UUID    string // made by containerd once for its root directory
	Version string
}

// Context returns ctx with the store's namespace set.
func (s *Store) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.Namespace)
}

// Marked is a filter for what has the label with the value id, by which its
// maker knows it again. In a containerd that isn't a process of its own that is
// all that has the label: nobody else could have made it, and the maker may have
// lost its id.
func (s *Store) Marked(label, id string) string {
	if s.Root != "" {
		return fmt.Sprintf("labels.%q", label)
	}
	return fmt.Sprintf("labels.%q==%q", label, id)
}

// GC removes everything that nothing refers to and returns when it is gone.
func (s *Store) GC(ctx context.Context) error {
	return s.Collect(s.Context(ctx))
}
