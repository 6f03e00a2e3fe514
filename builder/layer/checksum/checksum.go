// Package checksum digests what a step reads of a file tree, so that steps can
// be recognised by the content of their inputs.
//
// Two selections have the same digest exactly if the same names are selected,
// with the same types, modes, owners, link targets, device numbers, extended
// attributes and contents. Times do not count, nor does anything that is not
// selected. Links are followed inside the tree only: its root is the root of
// absolute links and nothing lies above it.
//
// The bytes that are digested are BuildKit's, so that keys agree with those in
// remote caches that BuildKit writes. Where BuildKit's digest would miss a
// change that the step sees, ours differs: the selected path itself always
// counts, and a path counts even if another selector has a directory above it.
//
// A [Tree] reads directories, and then files, only as they are asked for, and
// remembers what it has read.
package checksum

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
)

// Selector says which part of a tree counts.
type Selector struct {
	// Path starts at the tree's root, with or without a slash; "" is all.
	Path string
	// Wildcard: Path is a pattern as of path.Match. Nothing has to match.
	Wildcard bool
	// FollowLinks: a link that Path leads to stands for its target. Links on
	// the way to it are followed in any case.
	FollowLinks bool
	// Include and Exclude are patterns as of .dockerignore for what lies below
	// Path, relative to it. No Include means all.
	Include, Exclude []string
	// Required are prefixes of absolute paths; for each of them something has
	// to be selected. They count only beside Wildcard, Include or Exclude.
	Required []string
}

func (s Selector) filtered() bool {
	return s.Wildcard || len(s.Include) > 0 || len(s.Exclude) > 0
}

func (s Selector) path() string { return path.Join("/", s.Path) }

func (s Selector) equal(o Selector) bool {
	return s.path() == o.path() && s.Wildcard == o.Wildcard && s.FollowLinks == o.FollowLinks &&
		slices.Equal(s.Include, o.Include) && slices.Equal(s.Exclude, o.Exclude) &&
		slices.Equal(s.Required, o.Required)
}

// normalize sorts by path and drops what is there twice. No selector is the
// whole tree.
func normalize(sel []Selector) []Selector {
	if len(sel) == 0 {
		return []Selector{{}}
	}
	out := make([]Selector, 0, len(sel))
	for _, s := range sel {
		if !slices.ContainsFunc(out, s.equal) {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b Selector) int { return strings.Compare(a.path(), b.path()) })
	return out
}

// Mount makes a tree's files readable in the directory dir until release is
// called. It is only called when something has to be read.
type Mount func(ctx context.Context) (dir string, release func(), err error)

// Tree is a tree of files with the digests that are known so far. It is safe
// for concurrent use.
type Tree struct {
	lock  chan struct{} // holds one value while the nodes are in use
	mount Mount         // nil where everything is known
	root  *node
}

// New returns the tree below the directory root, which must not change. It is
// read when a digest needs it.
func New(root string) *Tree {
	return NewLazy(func(context.Context) (string, func(), error) { return root, func() {}, nil })
}

// NewLazy is New for a directory that isn't there all the time.
func NewLazy(mount Mount) *Tree {
	return &Tree{lock: make(chan struct{}, 1), mount: mount, root: &node{kind: kindDir, dir: &directory{}}}
}

// Digest gives the digest of all that the selectors select. Where a path that
// isn't a pattern does not exist, it fails with a *PathError of
// errdefs.ErrNotFound.
func (t *Tree) Digest(ctx context.Context, sel []Selector) (digest.Digest, error) {
	select {
	case t.lock <- struct{}{}:
		defer func() { <-t.lock }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	r := &reader{ctx: ctx, mount: t.mount}
	defer r.close()

	var selected []selection
	for _, s := range normalize(sel) {
		found, err := choose(r, t.root, s)
		if err != nil {
			return "", err
		}
		selected = append(selected, found)
	}
	if err := r.hash(unhashed(selected)); err != nil {
		return "", err
	}
	h := sha256.New()
	for i, s := range selected {
		if i > 0 {
			h.Write([]byte{0})
		}
		h.Write(s.sum().text())
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// PathError says which selected path could not be digested.
type PathError struct {
	Path string // absolute
	Err  error
}

func (e *PathError) Error() string { return fmt.Sprintf("%q: %v", e.Path, e.Err) }
func (e *PathError) Unwrap() error { return e.Err }

func notFound(p string) error { return &PathError{p, errdefs.ErrNotFound} }
