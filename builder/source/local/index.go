package local

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/kiln-build/kiln/builder/layer/checksum"
	digest "github.com/opencontainers/go-digest"
)

// index lists the entries of a tree, in the order of their announcement, with
// the digests. It doesn't change.
type index struct {
	entries []entry

	once   sync.Once
	tree   *checksum.Tree
	digest digest.Digest
	err    error
}

// checksums gives the tree of digests and the digest of the whole.
func (x *index) checksums(ctx context.Context) (*checksum.Tree, digest.Digest, error) {
	x.once.Do(func() {
		list := make([]checksum.Entry, len(x.entries))
		for i := range x.entries {
			list[i] = x.entries[i].Entry
		}
		if x.tree, x.err = checksum.FromEntries(list); x.err == nil {
			x.digest, x.err = x.tree.Digest(context.WithoutCancel(ctx), nil)
		}
	})
	return x.tree, x.digest, x.err
}

// size is what the files have in all.
func (x *index) size() (n int64) {
	for i := range x.entries {
		n += x.entries[i].Size
	}
	return n
}

// The encoding of an index is the magic and then, for each entry, numbers as
// varints and strings after their lengths:
//
//	path shared with the entry before, rest of the path, mode, uid, gid, size,
//	linkname, devmajor, devminor, modtime, mark (16 bytes), digest, number of
//	attributes, names and values
//
// and in the end the SHA-256 of all that.
const indexMagic = "kilnlocal1"

var errIndex = errors.New("the index is damaged")

func (x *index) encode() []byte {
	b := append(make([]byte, 0, 96*len(x.entries)+16), indexMagic...)
	last := ""
	for i := range x.entries {
		e := &x.entries[i]
		shared := 0
		for shared < min(len(last), len(e.Path)) && last[shared] == e.Path[shared] {
			shared++
		}
		last = e.Path
		b = binary.AppendVarint(b, int64(shared))
		b = appendString(b, e.Path[shared:])
		for _, n := range []int64{int64(e.Mode), int64(e.UID), int64(e.GID), e.Size} {
			b = binary.AppendVarint(b, n)
		}
		b = appendString(b, e.Linkname)
		for _, n := range []int64{e.Devmajor, e.Devminor, e.ModTime} {
			b = binary.AppendVarint(b, n)
		}
		b = append(b, e.Print[:]...)
		b = appendString(b, e.Digest)
		b = binary.AppendVarint(b, int64(len(e.Xattrs)))
		keys := make([]string, 0, len(e.Xattrs))
		for k := range e.Xattrs {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			b = appendString(appendString(b, k), string(e.Xattrs[k]))
		}
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendVarint(b, int64(len(s))), s...)
}

func decodeIndex(b []byte) (*index, error) {
	n := len(b) - sha256.Size
	if n < 0 || sha256.Sum256(b[:n]) != [sha256.Size]byte(b[n:]) {
		return nil, errIndex
	}
	rest, ok := strings.CutPrefix(string(b[:n]), indexMagic)
	if !ok {
		return nil, errIndex
	}
	d := &decoder{b: []byte(rest), s: rest}
	x := &index{}
	last := ""
	for len(d.b) > 0 && !d.bad {
		var e entry
		shared := d.number()
		if shared < 0 || shared > int64(len(last)) {
			return nil, errIndex
		}
		e.Path = last[:shared] + d.text()
		last = e.Path
		e.Mode, e.UID, e.GID, e.Size = fs.FileMode(d.number()), uint32(d.number()), uint32(d.number()), d.number()
		e.Linkname = d.text()
		e.Devmajor, e.Devminor, e.ModTime = d.number(), d.number(), d.number()
		copy(e.Print[:], d.bytes(int64(len(e.Print))))
		e.Digest = d.text()
		for n := d.number(); n > 0 && !d.bad; n-- {
			if e.Xattrs == nil {
				e.Xattrs = map[string][]byte{}
			}
			k := d.text()
			e.Xattrs[k] = []byte(d.text())
		}
		x.entries = append(x.entries, e)
	}
	if d.bad {
		return nil, errIndex
	}
	return x, nil
}

// decoder reads on after an error, nothing but zeros.
type decoder struct {
	b   []byte
	s   string // the same bytes, so that texts need no copies
	bad bool
}

func (d *decoder) number() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n int64) string {
	if n < 0 || n > int64(len(d.b)) {
		d.bad, d.b = true, nil
		return ""
	}
	at := len(d.s) - len(d.b)
	d.b = d.b[n:]
	return d.s[at : at+int(n)]
}

func (d *decoder) text() string { return d.bytes(d.number()) }

// writeFile replaces a file as a whole. It isn't synced: a file that a crash
// has spoiled doesn't decode, or names layers that are gone.
func writeFile(file string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("write %s: %w", filepath.Base(file), err)
	}
	return nil
}
