package checksum

import (
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strings"
)

// selection is what a selector has found.
type selection struct {
	// whole, if not nil, is selected with all that is in it.
	whole *node
	// Otherwise, picks are selected out of what lies below prefix.
	picks  []pick
	prefix string
	path   string
}

// pick is a selected entry. Of a directory only the metadata counts, unless it
// is deep.
type pick struct {
	path string // as selected, with prefix in front
	node *node
	deep bool
}

func (p pick) sum() sum {
	if p.deep {
		return p.node.sum()
	}
	return p.node.own
}

func (s selection) sum() sum {
	if s.whole != nil {
		return s.whole.sum()
	}
	if len(s.picks) == 1 && path.Base(s.path) == path.Base(s.picks[0].path) {
		return s.picks[0].sum()
	}
	h := sha256.New()
	for _, p := range s.picks {
		key := strings.ReplaceAll(strings.TrimPrefix(p.path, s.prefix), "/", "\x00")
		if key == "" {
			key = "\x00"
		}
		h.Write([]byte(key))
		h.Write(p.sum().text())
	}
	var out sum
	h.Sum(out[:0])
	return out
}

// choose finds what s selects below root. All of it is scanned then.
func choose(r *reader, root *node, s Selector) (selection, error) {
	if s.filtered() {
		return chooseFiltered(r, root, s)
	}
	p := s.path()
	n, err := lookup(r, root, p, s.FollowLinks)
	if err != nil {
		return selection{}, &PathError{p, err}
	}
	if n == nil {
		return selection{}, notFound(p)
	}
	return selection{whole: n, path: p}, r.scanAll(n)
}

func chooseFiltered(r *reader, root *node, s Selector) (selection, error) {
	filter, err := NewFilter(s.Include, s.Exclude)
	if err != nil {
		return selection{}, err
	}
	p := s.path()
	dir, pattern := p, ""
	if s.Wildcard {
		if dir, pattern = SplitPattern(p); pattern != "" {
			if _, err := path.Match(pattern, ""); err != nil {
				return selection{}, fmt.Errorf("invalid pattern %q: %w", s.Path, err)
			}
		}
	}
	start, err := lookup(r, root, dir, pattern != "")
	if err != nil {
		return selection{}, &PathError{dir, err}
	}
	c := chooser{r: r, root: root, sel: s, filter: filter}
	prefix := strings.TrimSuffix(dir, "/")
	switch {
	case start == nil:
	case pattern == "":
		err = c.top(start, prefix)
	default:
		err = c.expand(start, prefix, strings.Split(pattern, "/"))
	}
	if err != nil {
		return selection{}, err
	}
	for _, req := range s.Required {
		if !slices.ContainsFunc(c.picks, func(p pick) bool { return strings.HasPrefix(p.path, req) }) {
			return selection{}, notFound(req)
		}
	}
	return selection{picks: c.picks, prefix: prefix, path: p}, nil
}

// chooser collects the picks of one selector.
type chooser struct {
	r      *reader
	root   *node
	sel    Selector
	filter *Filter
	picks  []pick
	// open are the directories above the current entry; picked counts those
	// of them, from the outermost, that are in picks.
	open   []pick
	picked int
}

// expand visits all that the elements of a pattern match in the directory n.
func (c *chooser) expand(n *node, p string, pattern []string) error {
	if n.kind != kindDir {
		return nil
	}
	if err := c.r.scan(n); err != nil {
		return err
	}
	for _, child := range n.dir.children {
		if ok, err := path.Match(pattern[0], child.name); err != nil {
			return fmt.Errorf("invalid pattern %q: %w", c.sel.Path, err)
		} else if !ok {
			continue
		}
		var err error
		if childPath := p + "/" + child.name; len(pattern) > 1 {
			err = c.expand(child, childPath, pattern[1:])
		} else {
			err = c.top(child, childPath)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// top picks an entry that the selector's path leads to.
func (c *chooser) top(n *node, p string) error {
	if n.kind == kindLink && c.sel.FollowLinks {
		target, err := lookup(c.r, c.root, p, true)
		if err != nil {
			return &PathError{p, err}
		}
		if target == nil {
			return notFound(p)
		}
		c.picks = append(c.picks, pick{path: p, node: target, deep: true})
		return c.r.scanAll(target)
	}
	entry := pick{path: p, node: n}
	if n.kind != kindDir {
		c.picks = append(c.picks, entry)
		return nil
	}
	// The root's own metadata is no part of a selection below it.
	if p != "" {
		c.picks = append(c.picks, entry)
	}
	c.open, c.picked = c.open[:0], 0
	return c.below(n, p, "", Above{})
}

// below picks what the filter selects in the directory n.
func (c *chooser) below(n *node, p, rel string, above Above) error {
	if err := c.r.scan(n); err != nil {
		return err
	}
	for _, child := range n.dir.children {
		childRel := path.Join(rel, child.name)
		v, err := c.filter.Match(childRel, above)
		if err != nil {
			return err
		}
		entry := pick{path: p + "/" + child.name, node: child}
		if v.Selected {
			c.picks = append(c.picks, c.open[c.picked:]...)
			c.picked = len(c.open)
			c.picks = append(c.picks, entry)
		}
		if child.kind != kindDir || v.Hopeless {
			continue
		}
		c.open = append(c.open, entry)
		if v.Selected {
			c.picked = len(c.open)
		}
		if err := c.below(child, entry.path, childRel, v.Below); err != nil {
			return err
		}
		c.open = c.open[:len(c.open)-1]
		c.picked = min(c.picked, len(c.open))
	}
	return nil
}

// unhashed are the entries that count and were not hashed yet, each once.
func unhashed(selected []selection) []*node {
	var nodes []*node
	seen := map[*node]bool{}
	add := func(n *node) {
		if !n.hashed && !seen[n] {
			seen[n] = true
			nodes = append(nodes, n)
		}
	}
	var all func(n *node)
	all = func(n *node) {
		add(n)
		if n.kind == kindDir && !n.dir.summed {
			for _, c := range n.dir.children {
				all(c)
			}
		}
	}
	for _, s := range selected {
		if s.whole != nil {
			all(s.whole)
		}
		for _, p := range s.picks {
			if p.deep {
				all(p.node)
			} else {
				add(p.node)
			}
		}
	}
	return nodes
}
