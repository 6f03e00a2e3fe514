package checksum

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path"
	"slices"
	"strings"
)

type kind uint8

const (
	kindOther kind = iota // devices, pipes, sockets
	kindFile
	kindDir
	kindLink
)

// sum is a SHA-256.
type sum [sha256.Size]byte

// text is the sum as it is written in a digest.
func (s sum) text() []byte {
	const prefix = "sha256:"
	b := make([]byte, len(prefix)+2*len(s))
	copy(b, prefix)
	hex.Encode(b[len(prefix):], s[:])
	return b
}

// node is one entry of a tree.
type node struct {
	name   string
	parent *node
	kind   kind
	link   string // target, for kindLink
	// hashed: own is known.
	hashed bool
	// own is the digest of the entry's metadata, and a file's content.
	own sum
	dir *directory // for kindDir
}

type directory struct {
	scanned  bool
	children []*node // by name
	// summed: total is known.
	summed bool
	total  sum // of the directory and all that is in it
}

// child gives the entry of that name or nil; n is a directory that is scanned.
func (n *node) child(name string) *node {
	i, ok := slices.BinarySearchFunc(n.dir.children, name, func(c *node, name string) int {
		return strings.Compare(c.name, name)
	})
	if !ok {
		return nil
	}
	return n.dir.children[i]
}

// path is relative to the root, "." for the root.
func (n *node) path() string {
	if n.parent == nil {
		return "."
	}
	var names []string
	for ; n.parent != nil; n = n.parent {
		names = append(names, n.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// sum is the digest of the entry with all that is in it, all of which must
// have been hashed.
func (n *node) sum() sum {
	if n.kind != kindDir {
		return n.own
	}
	if n.dir.summed {
		return n.dir.total
	}
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(n.own.text())
	for _, c := range n.dir.children {
		h.Write([]byte{0})
		h.Write([]byte(c.name))
		h.Write(c.sum().text())
	}
	h.Sum(n.dir.total[:0])
	n.dir.summed = true
	return n.dir.total
}

// maxLinks is how many links one path may lead through.
const maxLinks = 255

var errTooManyLinks = errors.New("too many links")

// lookup finds the entry at the absolute path p, nil if there is none.
func lookup(r *reader, root *node, p string, follow bool) (*node, error) {
	at, rest := root, p
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			if at.parent != nil {
				at = at.parent
			}
			continue
		}
		if at.kind != kindDir {
			return nil, nil
		}
		if err := r.scan(at); err != nil {
			return nil, err
		}
		next := at.child(name)
		if next == nil {
			return nil, nil
		}
		if next.kind != kindLink || rest == "" && !follow {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, errTooManyLinks
		}
		if path.IsAbs(next.link) {
			at = root
		}
		rest = next.link + "/" + rest
	}
	return at, nil
}
