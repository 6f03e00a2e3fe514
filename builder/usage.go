package builder

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/source/local"
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
	entries, err := b.entries()
	if err != nil {
		return nil, err
	}
	for _, u := range entries {
		roots, err := l.roots(ctx, b.records.lease(cache.ID(u.ID)))
		if err != nil {
			return nil, err
		}
		if _, err := s.count(ctx, &u, roots...); err != nil {
			return nil, err
		}
		s.records = append(s.records, u)
	}
	return s, nil
}

// entries are the records, the oldest first, without their sizes and without saying
// which are shared.
func (b *Builder) entries() ([]cache.Usage, error) {
	recs, err := b.records.Brief()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(recs, func(x, y cache.Record) int { return x.Created.Compare(y.Created) })
	entries := make([]cache.Usage, 0, len(recs))
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
		entries = append(entries, u)
	}
	return entries, nil
}

// addContexts adds the directories of clients that are kept for the next build.
func (b *Builder) addContexts(ctx context.Context, s *survey) error {
	kept, err := b.sources.Local.List(ctx)
	if err != nil {
		return err
	}
	for _, k := range kept {
		u := contextEntry(k)
		var layers []leases.Resource
		for _, name := range k.Layers {
			layers = append(layers, s.snapshot(name))
		}
		if _, err := s.count(ctx, &u, layers...); err != nil {
			return err
		}
		s.records = append(s.records, u)
	}
	return nil
}

func contextEntry(k local.Kept) cache.Usage {
	return cache.Usage{
		ID: k.Key, Mutable: true, InUse: k.InUse, Created: k.Created, LastUsed: &k.Used,
		Description: "local source for " + k.Name, Type: cache.Local,
	}
}

// count gives u what nobody has of the resources and of what they need, and says
// whether that is anything.
func (s *survey) count(ctx context.Context, u *cache.Usage, roots ...leases.Resource) (some bool, err error) {
	mine := s.take(s.rest, roots...)
	u.Shared = overlap(mine, s.published)
	u.Size, err = s.sum(ctx, mine)
	return len(mine) > 0, err
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
	if err := b.records.Flush(); err != nil {
		return err
	}
	idle, err := b.idle(ctx)
	if err != nil {
		return err
	}
	if idle {
		return b.sweep(ctx)
	}
	return b.prune(ctx, b.cfg.Policies, func(cache.Usage) {})
}

// idle says whether it is clear, without measuring what records take, that no
// policy has anything to remove: as a rule there is room, or nothing is old enough.
func (b *Builder) idle(ctx context.Context) (bool, error) {
	var all []cache.Usage // nil: not known
	for _, p := range b.cfg.Policies {
		if p.Holds(b.atMost(), b.disk()) {
			continue
		}
		if all == nil {
			var err error
			if all, err = b.entries(); err != nil {
				return false, err
			}
			kept, err := b.sources.Local.List(ctx)
			if err != nil {
				return false, err
			}
			for _, k := range kept {
				all = append(all, contextEntry(k))
			}
		}
		if some, err := cache.Candidates(all, p, time.Now()); some || err != nil {
			return false, err
		}
	}
	return true, nil
}

// atMost is how many bytes the builder can have on disk: as many as are used there.
// Where it may be on several disks, as with another's containerd, that is no bound.
func (b *Builder) atMost() int64 {
	var own, store unix.Stat_t
	var disk unix.Statfs_t
	root := b.cfg.Store.Root
	if root == "" || unix.Stat(b.cfg.Root, &own) != nil || unix.Stat(root, &store) != nil || own.Dev != store.Dev || unix.Statfs(root, &disk) != nil {
		return math.MaxInt64
	}
	return int64(disk.Blocks-disk.Bfree) * disk.Bsize
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
