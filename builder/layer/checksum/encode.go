package checksum

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
)

// The encoding of a tree is the magic and then its entries, depth first from
// the root, children by name. An entry is
//
//	flags  byte: the kind and flag bits
//	name   uvarint length, bytes; not for the root
//	own    32 bytes, if flagHashed
//	link   uvarint length, bytes; only for links
//	total  32 bytes, if flagSummed; only for directories
//	count  uvarint number of children, if flagScanned; only for directories
const magic = "kilntree1"

const (
	kindMask    = 0x03
	flagHashed  = 0x04
	flagScanned = 0x08
	flagSummed  = 0x10
	flagsAll    = kindMask | flagHashed | flagScanned | flagSummed
)

var errEncoding = errors.New("the encoded tree is damaged")

// Encode gives all that is known of the tree. It waits for calls of Digest.
func (t *Tree) Encode() []byte {
	t.lock <- struct{}{}
	defer func() { <-t.lock }()
	b := []byte(magic)
	var walk func(n *node)
	walk = func(n *node) {
		b = appendNode(b, n)
		if n.kind == kindDir {
			for _, c := range n.dir.children {
				walk(c)
			}
		}
	}
	walk(t.root)
	return b
}

func appendNode(b []byte, n *node) []byte {
	flags := byte(n.kind)
	if n.hashed {
		flags |= flagHashed
	}
	if n.kind == kindDir && n.dir.scanned {
		flags |= flagScanned
	}
	if n.kind == kindDir && n.dir.summed {
		flags |= flagSummed
	}
	b = append(b, flags)
	if n.parent != nil {
		b = appendString(b, n.name)
	}
	if flags&flagHashed != 0 {
		b = append(b, n.own[:]...)
	}
	if n.kind == kindLink {
		b = appendString(b, n.link)
	}
	if flags&flagSummed != 0 {
		b = append(b, n.dir.total[:]...)
	}
	if flags&flagScanned != 0 {
		b = binary.AppendUvarint(b, uint64(len(n.dir.children)))
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Decode reads what Encode has written. What is not known will be read from
// the mount, which may be nil for a complete tree.
func Decode(data []byte, mount Mount) (*Tree, error) {
	rest, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok {
		return nil, errEncoding
	}
	d := decoder{rest: rest}
	root, missing, err := d.node(nil)
	if err != nil || root.kind != kindDir {
		return nil, errEncoding
	}
	// The directories from the root to the current one, with the number of
	// children that each still lacks.
	type incomplete struct {
		dir     *node
		missing uint64
	}
	open := []incomplete{{root, missing}}
	for len(open) > 0 {
		last := &open[len(open)-1]
		if last.missing == 0 {
			open = open[:len(open)-1]
			continue
		}
		last.missing--
		n, missing, err := d.node(last.dir)
		if err != nil {
			return nil, err
		}
		dir := last.dir.dir
		if i := len(dir.children); i > 0 && dir.children[i-1].name >= n.name {
			return nil, errEncoding
		}
		dir.children = append(dir.children, n)
		if missing > 0 {
			open = append(open, incomplete{n, missing})
		}
	}
	if len(d.rest) > 0 {
		return nil, errEncoding
	}
	return &Tree{lock: make(chan struct{}, 1), mount: mount, root: root}, nil
}

type decoder struct{ rest []byte }

// node reads an entry and the number of children that follow it.
func (d *decoder) node(parent *node) (n *node, children uint64, err error) {
	flags, err := d.take(1)
	if err != nil {
		return nil, 0, err
	}
	has := func(flag byte) bool { return flags[0]&flag != 0 }
	n = &node{parent: parent, kind: kind(flags[0] & kindMask), hashed: has(flagHashed)}
	if has(^byte(flagsAll)) || n.kind != kindDir && has(flagScanned|flagSummed) {
		return nil, 0, errEncoding
	}
	if parent != nil {
		if n.name, err = d.str(); err != nil || !validName(n.name) {
			return nil, 0, errEncoding
		}
	}
	if n.hashed {
		if err := d.sum(&n.own); err != nil {
			return nil, 0, err
		}
	}
	switch n.kind {
	case kindLink:
		n.link, err = d.str()
		return n, 0, err
	case kindDir:
		n.dir = &directory{scanned: has(flagScanned), summed: has(flagSummed)}
	default:
		return n, 0, nil
	}
	if n.dir.summed {
		if err := d.sum(&n.dir.total); err != nil {
			return nil, 0, err
		}
	}
	if n.dir.scanned {
		children, err = d.number()
	}
	return n, children, err
}

func validName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

func (d *decoder) take(n int) ([]byte, error) {
	if n > len(d.rest) {
		return nil, errEncoding
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b, nil
}

func (d *decoder) sum(s *sum) error {
	b, err := d.take(len(s))
	copy(s[:], b)
	return err
}

// number reads a number of things that take at least a byte each.
func (d *decoder) number() (uint64, error) {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 || n > uint64(len(d.rest)-size) {
		return 0, errEncoding
	}
	d.rest = d.rest[size:]
	return n, nil
}

func (d *decoder) str() (string, error) {
	n, err := d.number()
	if err != nil {
		return "", err
	}
	b, err := d.take(int(n))
	return string(b), err
}
