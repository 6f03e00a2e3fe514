package builder

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	containerimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/store"
	digest "github.com/opencontainers/go-digest"
)

// contentType is the type of blobs among the resources of leases.
const contentType = "content"

// ledger is what lies in containerd at one moment, and which of it needs which.
// It is for one goroutine.
type ledger struct {
	store     *store.Store
	block     int64 // bytes; blobs take whole blocks
	snapshots map[string]snapshots.Info
	content   map[digest.Digest]content.Info
	images    []containerimages.Image
	leases    []leases.Lease

	costs map[leases.Resource]int64
}

// openLedger looks at all that is there.
func openLedger(ctx context.Context, st *store.Store, block int64) (*ledger, error) {
	l := &ledger{
		store: st, block: max(block, 1), snapshots: map[string]snapshots.Info{}, content: map[digest.Digest]content.Info{},
		costs: map[leases.Resource]int64{},
	}
	ctx = st.Context(ctx)
	err := st.Snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		l.snapshots[info.Name] = info
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	err = st.Content.Walk(ctx, func(info content.Info) error {
		l.content[info.Digest] = info
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	if l.images, err = st.Images.List(ctx); err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	if l.leases, err = st.Leases.List(ctx); err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return l, nil
}

func (l *ledger) snapshot(name string) leases.Resource {
	return leases.Resource{ID: name, Type: "snapshots/" + l.store.Snapshotter}
}

func blob(d digest.Digest) leases.Resource {
	return leases.Resource{ID: d.String(), Type: contentType}
}

// roots is what lies directly on a lease; a lease that is gone keeps nothing.
func (l *ledger) roots(ctx context.Context, lease string) ([]leases.Resource, error) {
	roots, err := l.store.Leases.ListResources(l.store.Context(ctx), leases.Lease{ID: lease})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lease %s: %w", lease, err)
	}
	return roots, nil
}

// held is what a lease keeps, directly and through what that needs.
func (l *ledger) held(ctx context.Context, lease string) (map[leases.Resource]bool, error) {
	roots, err := l.roots(ctx, lease)
	return l.reach(roots...), err
}

// reach is what there is of the resources, and of what they need.
func (l *ledger) reach(roots ...leases.Resource) map[leases.Resource]bool {
	found := map[leases.Resource]bool{}
	for len(roots) > 0 {
		r := roots[len(roots)-1]
		roots = roots[:len(roots)-1]
		if found[r] {
			continue
		}
		if needs, ok := l.needs(r); ok {
			found[r] = true
			roots = append(roots, needs...)
		}
	}
	return found
}

// take takes from rest the resources and what they need, and returns it. Where
// something isn't in rest, nor is what it needs: so all that is ever taken from one
// rest takes one walk over the ledger, however long its chains are.
func (l *ledger) take(rest map[leases.Resource]bool, roots ...leases.Resource) map[leases.Resource]bool {
	taken := map[leases.Resource]bool{}
	for len(roots) > 0 {
		r := roots[len(roots)-1]
		roots = roots[:len(roots)-1]
		if !rest[r] {
			continue
		}
		delete(rest, r)
		taken[r] = true
		needs, _ := l.needs(r)
		roots = append(roots, needs...)
	}
	return taken
}

// needs is what a resource refers to, by its parent and its labels; ok is false
// where there is no such resource.
func (l *ledger) needs(r leases.Resource) (refs []leases.Resource, ok bool) {
	if r.Type == contentType {
		info, ok := l.content[digest.Digest(r.ID)]
		return l.references(info.Labels), ok
	}
	if r.Type != l.snapshot("").Type {
		return nil, false
	}
	info, ok := l.snapshots[r.ID]
	refs = l.references(info.Labels)
	if info.Parent != "" {
		refs = append(refs, l.snapshot(info.Parent))
	}
	return refs, ok
}

// references are those in labels that containerd's collector follows.
func (l *ledger) references(labels map[string]string) (refs []leases.Resource) {
	const contentRef, snapshotRef = "containerd.io/gc.ref.content", "containerd.io/gc.ref.snapshot."
	for key, value := range labels {
		if strings.HasPrefix(key, contentRef) {
			refs = append(refs, leases.Resource{ID: value, Type: contentType})
		} else if name, ok := strings.CutPrefix(key, snapshotRef); ok && strings.HasPrefix(name, l.store.Snapshotter) {
			refs = append(refs, l.snapshot(value))
		}
	}
	return refs
}

// all is everything that is there.
func (l *ledger) all() map[leases.Resource]bool {
	all := map[leases.Resource]bool{}
	for name := range l.snapshots {
		all[l.snapshot(name)] = true
	}
	for d := range l.content {
		all[blob(d)] = true
	}
	return all
}

// cost is how many bytes on disk a resource takes. Files that two snapshots
// have count for the one that had them first.
func (l *ledger) cost(ctx context.Context, r leases.Resource) (int64, error) {
	if cost, ok := l.costs[r]; ok {
		return cost, nil
	}
	var cost int64
	if r.Type == contentType {
		size := l.content[digest.Digest(r.ID)].Size
		cost = (size + l.block - 1) / l.block * l.block
	} else {
		u, err := l.store.Snapshots.Usage(l.store.Context(ctx), r.ID)
		if err != nil && !errdefs.IsNotFound(err) {
			return 0, fmt.Errorf("size of snapshot %s: %w", r.ID, err)
		}
		cost = u.Size
		if with, shared := l.linked(r); with != "" {
			cost = max(0, cost-shared)
		}
	}
	l.costs[r] = cost
	return cost, nil
}

// linked is the snapshot whose files a snapshot has too, where that still
// exists, and how many bytes they are.
func (l *ledger) linked(r leases.Resource) (with string, bytes int64) {
	with, bytes = layer.Linked(l.snapshots[r.ID].Labels)
	if _, ok := l.snapshots[with]; !ok || r.Type == contentType {
		return "", 0
	}
	return with, bytes
}

// sum is what resources cost together.
func (l *ledger) sum(ctx context.Context, resources map[leases.Resource]bool) (int64, error) {
	var total int64
	for r := range resources {
		cost, err := l.cost(ctx, r)
		if err != nil {
			return 0, err
		}
		total += cost
	}
	return total, nil
}

// published is what the images need, with the snapshots whose files theirs
// have too.
func (l *ledger) published() map[leases.Resource]bool {
	var roots []leases.Resource
	for _, img := range l.images {
		roots = append(roots, blob(img.Target.Digest))
	}
	found := l.reach(roots...)
	for r := range maps.Clone(found) {
		if with, _ := l.linked(r); with != "" {
			found[l.snapshot(with)] = true
		}
	}
	return found
}

// overlap says whether the two have something in common.
func overlap(x, y map[leases.Resource]bool) bool {
	for r := range x {
		if y[r] {
			return true
		}
	}
	return false
}
