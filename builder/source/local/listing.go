package local

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"path"
	"slices"

	"github.com/kiln-build/kiln/builder/layer/checksum"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil/types"
)

// listingName is the file that lists a tree of which only the list is wanted.
// Its content is the announcements as they came, each after its length as a
// little-endian uint32.
const listingName = ".fsutil-metadata"

// lister takes announcements for a listing. Entries that aren't wanted
// themselves are listed and forgotten.
type lister struct {
	catalog *catalog
	req     request
	list    bytes.Buffer
	parents []entry // directories that the current entry is in, not taken yet
	taken   []entry
	first   map[string]string // of the files with several names that are taken
}

func (l *lister) add(st *types.Stat) error {
	e, err := l.catalog.add(st)
	if err != nil {
		return err
	}
	added := *e
	if added.Path == listingName {
		return nil
	}
	if err := l.write(st); err != nil {
		return err
	}
	for n := len(l.parents); n > 0 && l.parents[n-1].Path != path.Dir(added.Path); n-- {
		l.parents = l.parents[:n-1]
	}
	wanted := false
	if l.req.contents != nil {
		if wanted, err = l.req.contents.MatchesOrParentMatches(added.Path); err != nil {
			return err
		}
	}
	switch {
	case wanted:
		l.untie(&added)
		l.taken = append(append(l.taken, l.parents...), added)
		l.parents = l.parents[:0]
	case added.Mode.IsDir():
		l.parents = append(l.parents, added)
	}
	return nil
}

// untie makes the first name that is taken the file, the others links to it.
func (l *lister) untie(e *entry) {
	if !e.regular() {
		return
	}
	if l.first == nil {
		l.first = map[string]string{}
	}
	file := e.Path
	if e.isLink() {
		file = e.Linkname
	}
	e.Linkname = l.first[file]
	if e.Linkname == "" {
		l.first[file] = e.Path
	}
}

// entries gives what was taken, and the list.
func (l *lister) entries() []entry {
	content := l.list.Bytes()
	e := entry{Entry: checksum.Entry{Path: listingName, Mode: 0o644, Size: int64(len(content))}, content: content}
	h := checksum.NewHash(e.Entry)
	h.Write(content)
	e.Digest = digest.NewDigest(digest.SHA256, h).String()
	sum := sha256.Sum256(content)
	copy(e.Print[:], sum[:])
	at, _ := slices.BinarySearchFunc(l.taken, listingName, func(e entry, p string) int { return comparePaths(e.Path, p) })
	return slices.Insert(l.taken, at, e)
}

func (l *lister) write(st *types.Stat) error {
	b, err := st.MarshalVT()
	if err != nil {
		return err
	}
	l.list.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(b))))
	l.list.Write(b)
	return nil
}
