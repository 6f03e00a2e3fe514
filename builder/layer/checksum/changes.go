package checksum

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"
)

// Change is a path at which two trees differ.
type Change struct {
	Path string `json:"path"` // absolute
	Kind string `json:"kind"` // Added, Removed or Modified
}

// The kinds of changes.
const (
	Added    = "added"
	Removed  = "removed"
	Modified = "modified"
)

// Changes tells where two trees differ, in the order of paths, at the paths that
// are given or below them; they may be patterns as of path.Match. Of what is
// added or removed with a directory only the directory is named.
func Changes(ctx context.Context, before, after *Tree, paths []string) ([]Change, error) {
	old, err := before.sums(ctx, paths)
	if err != nil {
		return nil, err
	}
	now, err := after.sums(ctx, paths)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(old)
	maps.Copy(all, now)
	var changes []Change
	whole := map[string]bool{} // directories that are named
	for _, p := range slices.Sorted(maps.Keys(all)) {
		was, had := old[p]
		is, has := now[p]
		c := Change{Path: p, Kind: Modified}
		switch {
		case had && has && was == is:
			continue
		case !had:
			c.Kind = Added
		case !has:
			c.Kind = Removed
		}
		if c.Kind != Modified {
			above := whole[path.Dir(p)+c.Kind]
			whole[p+c.Kind] = true
			if above {
				continue
			}
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// sums are the digests of the entries at and below the paths, each alone.
func (t *Tree) sums(ctx context.Context, paths []string) (map[string]sum, error) {
	select {
	case t.lock <- struct{}{}:
		defer func() { <-t.lock }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r := &reader{ctx: ctx, mount: t.mount}
	defer r.close()
	sums := map[string]sum{}
	for _, p := range paths {
		p = path.Join("/", p)
		start := p
		if HasWildcard(p) {
			start, _ = SplitPattern(p)
		}
		n, err := lookup(r, t.root, start, true)
		if err != nil {
			return nil, &PathError{start, err}
		}
		if n == nil {
			continue
		}
		if err := r.scanAll(n); err != nil {
			return nil, err
		}
		if err := r.hash(unhashed([]selection{{whole: n}})); err != nil {
			return nil, err
		}
		collect(sums, n, start, p)
	}
	return sums, nil
}

// collect adds the entries of n, at path p, that the pattern covers. The root is
// no entry.
func collect(sums map[string]sum, n *node, p, pattern string) {
	if p != "/" && covers(pattern, p) {
		sums[p] = n.own
	}
	if n.kind != kindDir {
		return
	}
	for _, c := range n.dir.children {
		collect(sums, c, path.Join(p, c.name), pattern)
	}
}

// covers tells whether p is what the pattern means, or lies below it.
func covers(pattern, p string) bool {
	if pattern == "/" || p == pattern || strings.HasPrefix(p, pattern+"/") {
		return true
	}
	elements := strings.Count(pattern, "/") + 1
	names := strings.Split(p, "/")
	if len(names) < elements {
		return false
	}
	ok, err := path.Match(pattern, strings.Join(names[:elements], "/"))
	return ok && err == nil
}
