package builder

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/kiln-build/kiln/builder/cache"
	"golang.org/x/sys/unix"
)

// DiskUsage lists the records that match one of the filters, in the order in
// which they were made. What isn't a record but takes space, or keeps records,
// is listed where a filter asks for it: see [cache.System] and [cache.Pins].
func (b *Builder) DiskUsage(ctx context.Context, filter []string) ([]cache.Usage, error) {
	for _, f := range filter {
		if id, ok := strings.CutPrefix(f, cache.Pins+"=="); ok {
			return b.pins(ctx, id)
		}
	}
	match, err := cache.Filter(filter)
	if err != nil {
		return nil, err
	}
	system := slices.ContainsFunc(filter, func(f string) bool { return strings.Contains(f, cache.System) })
	if system && b.cfg.Store.Root != "" {
		// What was removed and waits for a collection is on disk and in no list.
		if err := b.cfg.Store.GC(ctx); err != nil {
			return nil, err
		}
	}
	s, err := b.survey(ctx)
	if err != nil {
		return nil, err
	}
	all := s.records
	if system {
		if err := b.addSystem(ctx, s); err != nil {
			return nil, err
		}
		all = slices.Concat(s.records, s.system)
	}
	return slices.DeleteFunc(all, func(u cache.Usage) bool { return !match(u) }), nil
}

// survey is who has what of a ledger. What several have counts for the oldest
// of them.
type survey struct {
	*ledger
	rest      map[leases.Resource]bool // that nobody has, so far
	published map[leases.Resource]bool
	records   []cache.Usage
	system    []cache.Usage
}

func (b *Builder) survey(ctx context.Context) (*survey, error) {
	l, err := openLedger(ctx, b.cfg.Store, b.block())
	if err != nil {
		return nil, err
	}
	s := &survey{ledger: l, rest: l.all(), published: l.published()}
	if err := b.addContexts(ctx, s); err != nil {
		return nil, err
	}
	recs, err := b.records.All()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(recs, func(x, y cache.Record) int { return x.Created.Compare(y.Created) })
	for _, r := range recs {
		u := cache.Usage{
			ID: string(r.ID), Mutable: r.Kind == cache.CacheMount, InUse: b.records.InUse(r.ID),
			Created: r.Created, UsageCount: r.Uses, Description: r.Text, Type: r.Kind,
		}
		for _, p := range r.Parents {
			u.Parents = append(u.Parents, string(p))
		}
		if !r.LastUsed.IsZero() {
			u.LastUsed = &r.LastUsed
		}
		held, err := l.held(ctx, b.records.lease(r.ID))
		if err != nil {
			return nil, err
		}
		if err := s.count(ctx, &u, held); err != nil {
			return nil, err
		}
		s.records = append(s.records, u)
	}
	return s, nil
}

// addContexts adds the directories of clients that are kept for the next build.
func (b *Builder) addContexts(ctx context.Context, s *survey) error {
	kept, err := b.sources.Local.List(ctx)
	if err != nil {
		return err
	}
	for _, k := range kept {
		u := cache.Usage{
			ID: k.Key, Mutable: true, InUse: k.InUse, Created: k.Created, LastUsed: &k.Used,
			Description: "local source for " + k.Name, Type: cache.Local,
		}
		var layers []leases.Resource
		for _, name := range k.Layers {
			layers = append(layers, s.snapshot(name))
		}
		if err := s.count(ctx, &u, s.reach(layers...)); err != nil {
			return err
		}
		s.records = append(s.records, u)
	}
	return nil
}

// count gives u what nobody has of held.
func (s *survey) count(ctx context.Context, u *cache.Usage, held map[leases.Resource]bool) (err error) {
	mine := take(s.rest, held)
	u.Shared = overlap(mine, s.published)
	u.Size, err = s.sum(ctx, mine)
	return err
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

// prune applies policies in order. Each counts what the ones before have left.
func (b *Builder) prune(ctx context.Context, policies []cache.Policy, removed func(cache.Usage)) error {
	b.pruning.Lock()
	defer b.pruning.Unlock()
	var all []cache.Usage // as it is now; nil: not known
	for _, p := range policies {
		// What a removed record shared with others still takes space, and counts
		// for one of them now: so this may take several rounds.
		for more := true; more; {
			if all == nil {
				s, err := b.survey(ctx)
				if err != nil {
					return err
				}
				all = s.records
			}
			var err error
			if more, err = b.pruneOnce(ctx, all, p, removed); err != nil {
				return err
			}
			if more {
				all = nil
			}
		}
	}
	return b.sweep(ctx)
}

// pruneOnce removes what a policy chooses of all records, and says whether that was
// anything.
func (b *Builder) pruneOnce(ctx context.Context, all []cache.Usage, p cache.Policy, removed func(cache.Usage)) (some bool, _ error) {
	chosen, err := cache.Select(all, p, b.disk(), time.Now())
	if err != nil {
		return false, err
	}
	for _, u := range chosen {
		if err := b.remove(ctx, u); err != nil {
			if inUseOrGone(err) {
				continue
			}
			return some, err
		}
		removed(u)
		some = true
	}
	if !some {
		return false, nil
	}
	return true, b.sweep(ctx) // the next round may look at the disk
}

// sweep frees what nothing needs any more, and returns when it is gone.
func (b *Builder) sweep(ctx context.Context) error {
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

// block is what files are rounded up to on that filesystem, in bytes.
func (b *Builder) block() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(b.cfg.Root, &st); err != nil {
		return 1
	}
	return st.Bsize
}
