package snapshotter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
)

// Usage implements [snapshots.Snapshotter]: the bytes and inodes of the
// directory, for one of its names; see the package's comment.
func (sp *space) Usage(ctx context.Context, name string) (snapshots.Usage, error) {
	sp.mu.Lock()
	e, err := sp.find(name)
	if err != nil {
		sp.mu.Unlock()
		return snapshots.Usage{}, err
	}
	n := e.node
	known := n != nil && n.usage != nil && e.kind == snapshots.KindCommitted
	if known || n == nil || n.lazy != nil || sp.counted(n) != e {
		defer sp.mu.Unlock()
		if known && sp.counted(n) == e {
			return *n.usage, nil
		}
		return snapshots.Usage{}, nil
	}
	committed := e.kind == snapshots.KindCommitted
	n.pin()
	sp.mu.Unlock()
	defer sp.unpin(n)
	u, err := sp.measure(ctx, n)
	if err != nil {
		return snapshots.Usage{}, err
	}
	if committed {
		sp.mu.Lock()
		n.usage = &u
		sp.mu.Unlock()
	}
	return u, nil
}

// counted is the name in the space for which the bytes of the directory count; nil
// for none. disk.mu is held.
func (sp *space) counted(n *node) (oldest *entry) {
	for _, e := range n.names {
		if e.private == (sp.which == private) && (oldest == nil || e.created.Before(oldest.created)) {
			oldest = e
		}
	}
	return oldest
}

func (d *disk) measure(ctx context.Context, n *node) (snapshots.Usage, error) {
	du, err := fs.DiskUsage(ctx, d.fs(n))
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("measure directory %s: %w", n.id, err)
	}
	return snapshots.Usage(du), nil
}

// Walk implements [snapshots.Snapshotter]. fn may call the snapshotter.
func (sp *space) Walk(ctx context.Context, fn snapshots.WalkFunc, filter ...string) error {
	match, err := filters.ParseAll(filter...)
	if err != nil {
		return fmt.Errorf("filter of snapshots: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var found []snapshots.Info
	sp.mu.RLock()
	for _, e := range sp.entries {
		if match.Match(adaptor{e}) {
			found = append(found, e.info())
		}
	}
	sp.mu.RUnlock()
	slices.SortFunc(found, func(x, y snapshots.Info) int { return strings.Compare(x.Name, y.Name) })
	for _, info := range found {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := fn(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

// adaptor shows an entry to filters.
type adaptor struct{ *entry }

func (a adaptor) Field(path []string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	switch path[0] {
	case "kind":
		return strings.ToLower(a.kind.String()), true
	case "name":
		return a.name, true
	case "parent":
		return a.parent, true
	case "labels":
		v, ok := a.labels[strings.Join(path[1:], ".")]
		return v, ok
	}
	return "", false
}
