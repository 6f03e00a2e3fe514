// Package boltcheck looks for damage in files of bbolt databases, before bbolt
// maps them into memory and panics, or is ended by a signal, where it finds
// some.
//
// A file is a sequence of pages. The first two are metas, of which the valid one
// with the higher transaction counts; it leads to the root of a tree of branches
// and leaves, whose elements may be roots of further trees. All numbers are in
// the machine's byte order.
//
//	page:    id u64, flags u16, count u16, overflow u32, elements
//	meta:    magic u32, version u32, page size u32, flags u32, root u64,
//	         sequence u64, freelist u64, pages u64, transaction u64, FNV-1a u64
//	branch:  pos u32, key size u32, child u64
//	leaf:    flags u32, pos u32, key size u32, value size u32
//	bucket:  root u64, sequence u64; and a page, where root is 0
package boltcheck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"github.com/containerd/errdefs"
)

const (
	magic    = 0xED0CDAED
	version  = 2
	headSize = 16
	metaSize = 64 // with its checksum
	element  = 16 // of branches and of leaves

	branchPage = 0x01
	leafPage   = 0x02
	metaPage   = 0x04
	bucketLeaf = 0x01

	noFreelist = 1<<64 - 1
	maxDepth   = 64
	maxPage    = 1 << 26 // bytes, with what overflows
)

var order = binary.NativeEndian

// File reads a whole database. It fails with errdefs.ErrDataLoss where it is
// damaged, and with os.ErrNotExist where there is none; an empty file is none
// that is damaged. The database must not be open.
func File(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	c := &check{file: f, size: info.Size(), seen: map[uint64]bool{}}
	if err := c.all(); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}

type check struct {
	file     io.ReaderAt
	size     int64
	pageSize int64
	pages    uint64 // in use
	seen     map[uint64]bool
}

func damaged(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrDataLoss)...)
}

func (c *check) all() error {
	m, err := c.meta()
	if err != nil {
		return err
	}
	if c.pages = m.pages; int64(c.pages) < 0 || int64(c.pages) > c.size/c.pageSize {
		return damaged("it has %d bytes, too few for %d pages of %d", c.size, c.pages, c.pageSize)
	}
	if m.freelist != noFreelist && m.freelist >= c.pages {
		return damaged("the freelist is beyond the end")
	}
	return c.tree(m.root, 0)
}

type meta struct{ pageSize, root, freelist, pages, transaction uint64 }

// meta gives the valid meta page with the latest transaction.
func (c *check) meta() (best meta, _ error) {
	for _, at := range []int64{0, int64(os.Getpagesize()), 1024, 2048, 4096, 8192, 16384, 32768, 65536} {
		buf := make([]byte, headSize+metaSize)
		if n, err := c.file.ReadAt(buf, at); n < len(buf) {
			if err != nil && !errors.Is(err, io.EOF) {
				return best, err
			}
			continue
		}
		if order.Uint16(buf[8:])&metaPage == 0 {
			continue
		}
		if m, ok := readMeta(buf[headSize:]); ok && (best.pageSize == 0 || m.transaction > best.transaction) {
			best = m
		}
	}
	size := best.pageSize
	if size < 512 || size > 1<<20 || size&(size-1) != 0 {
		return best, damaged("it has no valid meta page")
	}
	c.pageSize = int64(size)
	return best, nil
}

func readMeta(b []byte) (meta, bool) {
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	ok := order.Uint32(b) == magic && order.Uint32(b[4:]) == version && order.Uint64(b[metaSize-8:]) == sum.Sum64()
	return meta{
		pageSize: uint64(order.Uint32(b[8:])), root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]),
		pages: order.Uint64(b[40:]), transaction: order.Uint64(b[48:]),
	}, ok
}

// tree checks the page with the id, and all below it.
func (c *check) tree(id uint64, depth int) error {
	if id < 2 || id >= c.pages {
		return damaged("page %d of %d is referred to", id, c.pages)
	}
	if c.seen[id] || depth > maxDepth {
		return damaged("page %d is referred to twice", id)
	}
	c.seen[id] = true
	head := make([]byte, headSize)
	if _, err := c.file.ReadAt(head, int64(id)*c.pageSize); err != nil {
		return damaged("page %d: %v", id, err)
	}
	overflow := uint64(order.Uint32(head[12:]))
	if got := order.Uint64(head); got != id || id+overflow >= c.pages {
		return damaged("page %d says that it is %d, with %d that follow", id, got, overflow)
	}
	size := int64(overflow+1) * c.pageSize
	if size > maxPage {
		return damaged("page %d has %d bytes", id, size)
	}
	page := make([]byte, size)
	if _, err := c.file.ReadAt(page, int64(id)*c.pageSize); err != nil {
		return damaged("page %d: %v", id, err)
	}
	if err := c.elements(page, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements checks what is in a page.
func (c *check) elements(page []byte, depth int) error {
	flags, count := order.Uint16(page[8:]), int(order.Uint16(page[10:]))
	if flags != branchPage && flags != leafPage || headSize+count*element > len(page) {
		return damaged("%d elements of kind %d", count, flags)
	}
	for i := range count {
		at := headSize + i*element
		if flags == branchPage {
			if _, err := part(page, at, order.Uint32(page[at:]), order.Uint32(page[at+4:])); err != nil {
				return err
			}
			if err := c.tree(order.Uint64(page[at+8:]), depth+1); err != nil {
				return err
			}
			continue
		}
		pos, key, value := order.Uint32(page[at+4:]), order.Uint32(page[at+8:]), order.Uint32(page[at+12:])
		if _, err := part(page, at, pos, key); err != nil {
			return err
		}
		data, err := part(page, at+int(key), pos, value)
		if err == nil && order.Uint32(page[at:])&bucketLeaf != 0 {
			err = c.bucket(data, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// part is size bytes of the page, pos bytes after what is at.
func part(page []byte, at int, pos, size uint32) ([]byte, error) {
	from := uint64(at) + uint64(pos)
	if to := from + uint64(size); to <= uint64(len(page)) {
		return page[from:to], nil
	}
	return nil, damaged("an element of %d bytes is at %d, beyond the end", size, from)
}

func (c *check) bucket(b []byte, depth int) error {
	if len(b) < 16 || depth > maxDepth {
		return damaged("a bucket of %d bytes, %d deep", len(b), depth)
	}
	if root := order.Uint64(b); root != 0 {
		return c.tree(root, depth)
	}
	if len(b) < 16+headSize {
		return damaged("a bucket of %d bytes", len(b))
	}
	return c.elements(b[16:], depth)
}
