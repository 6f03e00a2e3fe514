package builder

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// DiskUsage lists the records that match one of the filters, in the order in
// which they were made.
func (b *Builder) DiskUsage(ctx context.Context, filter []string) ([]cache.Usage, error) {
	match, err := cache.Filter(filter)
	if err != nil {
		return nil, err
	}
	all, err := b.usage(ctx)
	return slices.DeleteFunc(all, func(u cache.Usage) bool { return !match(u) }), err
}

// usage lists all records. What several have counts for the oldest of them.
func (b *Builder) usage(ctx context.Context) ([]cache.Usage, error) {
	recs, err := b.records.All()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(recs, func(x, y cache.Record) int { return x.Created.Compare(y.Created) })
	seen := map[leases.Resource]bool{}
	all, err := b.contexts(ctx, seen)
	if err != nil {
		return nil, err
	}
	for _, r := range recs {
		size, err := b.size(ctx, r.ID, seen)
		if err != nil {
			return nil, err
		}
		u := cache.Usage{
			ID: string(r.ID), Mutable: r.Kind == cache.CacheMount, InUse: b.records.InUse(r.ID), Size: size,
			Created: r.Created, UsageCount: r.Uses, Description: r.Text, Type: r.Kind,
		}
		for _, p := range r.Parents {
			u.Parents = append(u.Parents, string(p))
		}
		if !r.LastUsed.IsZero() {
			u.LastUsed = &r.LastUsed
		}
		all = append(all, u)
	}
	return all, nil
}

// contexts lists the directories of clients that are kept for the next build,
// and notes their layers as seen.
func (b *Builder) contexts(ctx context.Context, seen map[leases.Resource]bool) ([]cache.Usage, error) {
	kept, err := b.sources.Local.List(ctx)
	if err != nil {
		return nil, err
	}
	var all []cache.Usage
	for _, k := range kept {
		for _, name := range k.Layers {
			seen[leases.Resource{Type: "snapshots/" + b.cfg.Store.Snapshotter, ID: name}] = true
		}
		all = append(all, cache.Usage{
			ID: k.Key, Mutable: true, InUse: k.InUse, Size: k.Size, Created: k.Created, LastUsed: &k.Used,
			Description: "local source for " + k.Name, Type: cache.Local,
		})
	}
	return all, nil
}

// size is how many bytes the record's lease holds that aren't seen yet.
func (b *Builder) size(ctx context.Context, id cache.ID, seen map[leases.Resource]bool) (int64, error) {
	ctx = b.cfg.Store.Context(ctx)
	held, err := b.cfg.Store.Leases.ListResources(ctx, leases.Lease{ID: b.records.lease(id)})
	if err != nil && !errdefs.IsNotFound(err) {
		return 0, err
	}
	var size int64
	for _, r := range held {
		if seen[r] {
			continue
		}
		seen[r] = true
		n, err := b.resourceSize(ctx, r)
		if err != nil && !errdefs.IsNotFound(err) {
			return 0, err
		}
		size += n
	}
	return size, nil
}

func (b *Builder) resourceSize(ctx context.Context, r leases.Resource) (int64, error) {
	if r.Type == "content" {
		info, err := b.cfg.Store.Content.Info(ctx, digest.Digest(r.ID))
		return info.Size, err
	}
	if strings.HasPrefix(r.Type, "snapshots/") {
		u, err := b.cfg.Store.Snapshots.Usage(ctx, r.ID)
		return u.Size, err
	}
	return 0, nil
}

// Prune removes records and tells removed of each. What they needed alone is
// gone when it returns.
func (b *Builder) Prune(ctx context.Context, p cache.PruneRequest, removed func(cache.Usage)) error {
	if err := b.sources.Images.Forget(ctx); err != nil {
		return err
	}
	return b.prune(ctx, []cache.Policy{p}, removed)
}

// Collect does what the configured policies say.
func (b *Builder) Collect(ctx context.Context) error {
	return b.prune(ctx, b.cfg.Policies, func(cache.Usage) {})
}

func (b *Builder) prune(ctx context.Context, policies []cache.Policy, removed func(cache.Usage)) error {
	for _, p := range policies {
		all, err := b.usage(ctx)
		if err != nil {
			return err
		}
		chosen, err := cache.Select(all, p, b.disk(), time.Now())
		if err != nil {
			return err
		}
		for _, u := range chosen {
			err := b.remove(ctx, u)
			if errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			removed(u)
		}
	}
	if err := b.layers.Settle(); err != nil {
		return err
	}
	return b.cfg.Store.GC(ctx)
}

func (b *Builder) remove(ctx context.Context, u cache.Usage) error {
	if u.Type == cache.Local && u.Mutable {
		return b.sources.Local.Remove(ctx, u.ID)
	}
	return b.records.remove(ctx, cache.ID(u.ID))
}

// disk measures the filesystem that the builder's directory is on.
func (b *Builder) disk() cache.Disk {
	var st unix.Statfs_t
	if err := unix.Statfs(b.cfg.Root, &st); err != nil {
		return cache.Disk{}
	}
	return cache.Disk{Total: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize}
}
