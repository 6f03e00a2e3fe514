package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/log"
	"github.com/docker/go-units"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/schedule"
)

// Ceiling bounds in bytes what the builder may have on disk, at all times; 0 is
// no bound.
type Ceiling struct {
	// MaxUsed is for all that it has there: blobs, trees, cache mounts,
	// contexts, databases, and what running steps have written so far.
	MaxUsed int64
	// MinFree of the disk is left to others.
	MinFree int64
}

// CeilingError is why a step was stopped: there is no room for what it writes.
type CeilingError struct {
	Ceiling Ceiling
	Used    int64
	Free    int64
	// Step is the name of the step, Written what it has written so far.
	Step    string
	Written int64
}

func (e *CeilingError) Error() string {
	what := fmt.Sprintf("%s of at most %s (maxUsedSpace) are used", size(e.Used), size(e.Ceiling.MaxUsed))
	if e.Ceiling.MaxUsed == 0 || e.Used <= e.Ceiling.MaxUsed {
		what = fmt.Sprintf("%s are free on the disk, less than %s; the builder uses %s", size(e.Free), size(e.Ceiling.MinFree), size(e.Used))
	}
	by := ""
	switch {
	case e.Step != "" && e.Written > e.Used/10:
		by = fmt.Sprintf(", %s of it by step %q", size(e.Written), shortened(e.Step))
	case e.Step != "":
		by = fmt.Sprintf(", and step %q needs more", shortened(e.Step))
	}
	return fmt.Sprintf("no room to build: %s%s; nothing more can be removed that isn't in use: "+
		"see what there is with kiln du, remove images, or raise the limit", what, by)
}

// shortened is enough of a step's name to know it by.
func shortened(name string) string {
	if r := []rune(name); len(r) > 80 {
		return string(r[:79]) + "…"
	}
	return name
}

func (c Ceiling) holds(used, free int64) bool {
	return free >= c.MinFree && (c.MaxUsed == 0 || used <= c.MaxUsed)
}

// lowered is a ceiling below which there is room for a step to begin, or to go on
// for a while.
func (c Ceiling) lowered() Ceiling {
	return Ceiling{MaxUsed: c.MaxUsed - c.MaxUsed/20, MinFree: c.MinFree + c.MinFree/20}
}

func size(n int64) string { return units.BytesSize(float64(max(n, 0))) }

// guardedOp is an op whose work is under the guard.
type guardedOp struct {
	schedule.Op
	guard *guard
	name  string
	begun time.Time // when the build began
	// pins: making the key brings content here, as sources do.
	pins bool
}

// Key implements schedule.Op.
func (o guardedOp) Key(ctx context.Context, job schedule.Job) (schedule.Key, error) {
	if !o.pins {
		return o.Op.Key(ctx, job)
	}
	ctx, leave, err := o.guard.enter(ctx, o.name, o.begun)
	if err != nil {
		return schedule.Key{}, err
	}
	defer leave()
	key, err := o.Op.Key(ctx, job)
	return key, reason(ctx, err)
}

// Run implements schedule.Op.
func (o guardedOp) Run(ctx context.Context, job schedule.Job, inputs []schedule.Result) ([]schedule.Result, error) {
	ctx, leave, err := o.guard.enter(ctx, o.name, o.begun)
	if err != nil {
		return nil, err
	}
	defer leave()
	results, err := o.Op.Run(ctx, job, inputs)
	return results, reason(ctx, err)
}

// reason is why something failed: the ceiling, where that ended its context.
func reason(ctx context.Context, err error) error {
	var full *CeilingError
	if err != nil && errors.As(context.Cause(ctx), &full) {
		return full
	}
	return err
}

// wrap puts an op under the guard, of a build that began then.
func (g *guard) wrap(s *graph.Step, begun time.Time, op schedule.Op) schedule.Op {
	if g == nil {
		return op
	}
	return guardedOp{op, g, s.Meta.Name, begun, s.Op.GetSource() != nil}
}

// madeRoom is called when a build has ended with err and has let go all that it
// had. What it failed to finish makes room for others.
func (b *Builder) madeRoom(ctx context.Context, err error) {
	var full *CeilingError
	if errors.As(err, &full) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		if err := b.sweep(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("collect after a build that had no room")
		}
	}
	b.guard.changed()
}

// older says whether a build runs that began before then.
func (b *Builder) older(then time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.builds {
		if r.begun.Before(then) {
			return true
		}
	}
	return false
}

// used is what the builder has on disk, in bytes: of a containerd of our own all
// that lies there, of another's what our leases keep.
func (b *Builder) used(ctx context.Context) (int64, error) {
	l, err := openLedger(ctx, b.cfg.Store, b.block())
	if err != nil {
		return 0, err
	}
	all := l.all()
	if b.cfg.Store.Root == "" {
		var kept []leases.Resource
		for _, lease := range l.leases {
			if !b.ours(lease) {
				continue
			}
			roots, err := l.roots(ctx, lease.ID)
			if err != nil {
				return 0, err
			}
			kept = append(kept, roots...)
		}
		all = l.reach(kept...)
	}
	bytes, err := l.sum(ctx, all)
	if err != nil {
		return 0, err
	}
	files, err := b.ownFiles()
	return bytes + files, err
}

// written is what lies directly on a lease, in bytes.
func (b *Builder) written(ctx context.Context, lease string) (int64, error) {
	if lease == "" {
		return 0, nil
	}
	ctx = b.cfg.Store.Context(ctx)
	held, err := b.cfg.Store.Leases.ListResources(ctx, leases.Lease{ID: lease})
	if err != nil {
		return 0, err
	}
	var total int64
	for _, r := range slices.DeleteFunc(held, func(r leases.Resource) bool { return r.Type == contentType }) {
		if u, err := b.cfg.Store.Snapshots.Usage(ctx, r.ID); err == nil {
			total += u.Size
		}
	}
	return total, nil
}

// relieve removes what nobody uses until there is a tenth of the ceiling to
// write to, or nothing is left to remove.
func (b *Builder) relieve(ctx context.Context, c Ceiling) error {
	used, err := b.used(ctx)
	if err != nil {
		return err
	}
	p := cache.Policy{All: true, MinFreeSpace: c.MinFree + c.MinFree/10}
	if c.MaxUsed > 0 {
		// The policy counts records alone, and the limit more than these.
		s, err := b.survey(ctx)
		if err != nil {
			return err
		}
		var records int64
		for _, u := range s.records {
			if !u.Shared {
				records += u.Size
			}
		}
		p.MaxUsedSpace = max(1, c.MaxUsed-c.MaxUsed/10-(used-records))
	}
	return b.prune(ctx, []cache.Policy{p}, func(cache.Usage) {})
}
