package local

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

// action is what has to be done to a tree for one path.
type action int

const (
	remove    action = iota // with all that is below it
	makeEntry               // anything that isn't a file with content
	adjust                  // the metadata of a directory that stays
	duplicate               // a file whose content is in the previous layer
	fill                    // a file whose content is at hand
	fetch                   // a file whose content the client has
)

// step is one thing to do. Steps are in the order of their paths.
type step struct {
	do   action
	path string
	e    *entry // of the new tree; nil for remove
}

// recall says what the new entries are where nothing has changed since the
// previous transfer. Links take their files' digests later.
func recall(entries []entry, previous *index) {
	old := previous.entries
	for i := range entries {
		e := &entries[i]
		for len(old) > 0 && comparePaths(old[0].Path, e.Path) < 0 {
			old = old[1:]
		}
		if len(old) > 0 && old[0].Path == e.Path && old[0].Print == e.Print {
			id := e.id
			*e = old[0]
			e.id = id
		}
	}
}

// plan says how the tree with the entries of below becomes the new one.
// Entries with a digest are known from the previous transfer.
func plan(entries []entry, below *index) []step {
	p := planner{remade: map[string]bool{}}
	old := below.entries
	for i := range entries {
		e := &entries[i]
		for len(old) > 0 && comparePaths(old[0].Path, e.Path) < 0 {
			p.remove(old[0].Path)
			old = old[1:]
		}
		if len(old) > 0 && old[0].Path == e.Path {
			p.replace(&old[0], e)
			old = old[1:]
		} else {
			p.make(e)
		}
	}
	for i := range old {
		p.remove(old[i].Path)
	}
	return p.steps
}

type planner struct {
	steps  []step
	gone   string          // removed last; what is below it is gone with it
	remade map[string]bool // files that are not the ones that were there
}

func (p *planner) remove(path string) {
	if p.gone != "" && strings.HasPrefix(path, p.gone+"/") {
		return
	}
	p.gone = path
	p.steps = append(p.steps, step{do: remove, path: path})
}

func (p *planner) replace(old, e *entry) {
	same := old.Print == e.Print && old.Digest == e.Digest
	switch {
	case same && !(e.isLink() && p.remade[e.Linkname]):
		return
	case old.Mode.IsDir() && e.Mode.IsDir():
		p.steps = append(p.steps, step{adjust, e.Path, e})
	default:
		p.remove(e.Path)
		p.make(e)
	}
}

func (p *planner) make(e *entry) {
	do := makeEntry
	if e.regular() && !e.isLink() {
		p.remade[e.Path] = true
		do = fetch
		if e.content != nil {
			do = fill
		} else if e.Digest != "" {
			do = duplicate
		}
	}
	p.steps = append(p.steps, step{do, e.Path, e})
}

// sameContent says whether two trees differ in times at most. Both must be
// complete.
func sameContent(a, b []entry) bool {
	return slices.EqualFunc(a, b, func(x, y entry) bool {
		return x.Path == y.Path && x.Mode == y.Mode && x.UID == y.UID && x.GID == y.GID && x.Size == y.Size &&
			x.Linkname == y.Linkname && x.Devmajor == y.Devmajor && x.Devminor == y.Devminor &&
			x.Digest == y.Digest && maps.EqualFunc(x.Xattrs, y.Xattrs, bytes.Equal)
	})
}
