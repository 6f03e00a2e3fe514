package schedule

import "context"

// A step may make a definition and build it, inside of its own run. That run then
// waits for others, and those may wait for still others.

type insideKey struct{}

// inside gives the context of what is done inside of a run.
func inside(ctx context.Context, r *run) context.Context {
	return context.WithValue(ctx, insideKey{}, r)
}

// around is the run inside of which something is done, or nil.
func around(ctx context.Context) *run {
	r, _ := ctx.Value(insideKey{}).(*run)
	return r
}

// endsAfter tells whether r is other, or waits for it, directly or through runs
// that were not seen yet. Scheduler.mu is held. Runs that wait for each other in a
// circle would never end, so none may begin to wait that closes one.
func (r *run) endsAfter(other *run, seen map[*run]bool) bool {
	if r == other {
		return true
	}
	seen[r] = true
	for next := range r.awaits {
		if !seen[next] && next.endsAfter(other, seen) {
			return true
		}
	}
	return false
}
