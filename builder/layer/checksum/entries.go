package checksum

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// FromEntries makes a complete tree. Directories must be among the entries, in
// any order; the root may be left out and has no metadata then.
func FromEntries(entries []Entry) (*Tree, error) {
	root := &node{kind: kindDir, hashed: true, own: sha256.Sum256(nil), dir: &directory{scanned: true}}
	nodes := make(map[string]*node, len(entries)+1)
	nodes[""] = root
	links := map[*node]string{}
	for _, e := range entries {
		p, err := entryPath(e.Path)
		if err != nil {
			return nil, err
		}
		n, err := entryNode(e)
		if err != nil {
			return nil, err
		}
		switch {
		case p != "" && nodes[p] != nil:
			return nil, fmt.Errorf("%q is in the list twice", e.Path)
		case p == "" && n.kind != kindDir:
			return nil, fmt.Errorf("the root is no directory")
		case p == "":
			root.own = n.own
		default:
			nodes[p] = n
		}
		if n.kind == kindFile && !n.hashed {
			links[n] = e.Linkname
		}
	}
	for p, n := range nodes {
		if p == "" {
			continue
		}
		dir, name := path.Split(p)
		n.name, n.parent = name, nodes[strings.TrimSuffix(dir, "/")]
		if n.parent == nil || n.parent.kind != kindDir {
			return nil, fmt.Errorf("%q is in no directory of the list", p)
		}
		n.parent.dir.children = append(n.parent.dir.children, n)
	}
	for n, link := range links {
		p, err := entryPath(link)
		if err != nil {
			return nil, err
		}
		same := nodes[p]
		if same == nil || same.kind != kindFile || !same.hashed {
			return nil, fmt.Errorf("%q is a link to %q, which is no file with content", n.path(), link)
		}
		n.own = same.own
	}
	for n := range links {
		n.hashed = true
	}
	for _, n := range nodes {
		if n.kind == kindDir {
			slices.SortFunc(n.dir.children, func(a, b *node) int { return strings.Compare(a.name, b.name) })
		}
	}
	return &Tree{lock: make(chan struct{}, 1), root: root}, nil
}

// entryPath gives a path without slashes around it.
func entryPath(p string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+p), "/")
	if slices.Contains(strings.Split(p, "/"), "..") || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("invalid path %q", p)
	}
	return clean, nil
}

// entryNode makes a node without a place. A file that is a link to another is
// not hashed yet.
func entryNode(e Entry) (*node, error) {
	n := &node{hashed: true}
	switch {
	case e.Mode.IsRegular():
		n.kind = kindFile
	case e.Mode.IsDir():
		n.kind, n.dir = kindDir, &directory{scanned: true}
	case e.Mode&fs.ModeSymlink != 0:
		n.kind, n.link = kindLink, e.Linkname
	}
	switch {
	case e.Digest != "":
		d, err := digest.Parse(e.Digest)
		if err != nil || d.Algorithm() != digest.SHA256 {
			return nil, fmt.Errorf("%q: invalid digest %q", e.Path, e.Digest)
		}
		if _, err := hex.Decode(n.own[:], []byte(d.Encoded())); err != nil {
			return nil, fmt.Errorf("%q: invalid digest %q: %w", e.Path, e.Digest, err)
		}
	case n.kind == kindFile && e.Linkname != "":
		n.hashed = false
	case n.kind == kindFile && e.Size > 0:
		return nil, fmt.Errorf("%q has no digest", e.Path)
	default:
		NewHash(e).Sum(n.own[:0])
	}
	return n, nil
}
