package local

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/layer/checksum"
	"github.com/tonistiigi/fsutil/types"
)

// Bounds of what a client may announce.
const (
	maxEntries  = 5_000_000
	maxMetadata = 1 << 30 // bytes of paths, link targets and attributes in all
	maxPath     = 4096
	maxName     = 255
	maxXattrs   = 64 << 10 // bytes in one entry
)

// entry is one entry of a client's directory. What is announced of it may not
// be quite what lies on disk then: a file may change while it is sent.
type entry struct {
	checksum.Entry        // as on disk; without a digest until it is there
	ModTime        int64  // ns since 1970
	Print          mark   // of all that was announced
	id             uint32 // in the transfer
	content        []byte // where it doesn't come from the client
}

// mark tells announcements apart.
type mark [16]byte

func (e *entry) regular() bool { return e.Mode.IsRegular() }

// isLink: the entry is the same file as an earlier one.
func (e *entry) isLink() bool { return e.regular() && e.Linkname != "" }

// catalog checks announcements as they come in.
type catalog struct {
	entries  []entry // in order
	metadata int
	open     []openDir // the directories that the last entry is in
}

type openDir struct {
	path string
	last string // name of the last entry
}

// add checks and takes one announcement. Entries come directory by directory,
// each after the directory it is in, names in byte order.
func (c *catalog) add(st *types.Stat) (*entry, error) {
	if len(c.entries) >= maxEntries {
		return nil, fmt.Errorf("the directory has more than %d entries; exclude some (.dockerignore): %w", maxEntries, errdefs.ErrResourceExhausted)
	}
	e, err := newEntry(st)
	if err == nil {
		err = c.place(&e)
	}
	if err != nil {
		return nil, fmt.Errorf("the client announces %.200q: %w: %w", st.Path, err, errdefs.ErrInvalidArgument)
	}
	c.metadata += len(e.Path) + len(e.Linkname)
	for k, v := range e.Xattrs {
		c.metadata += len(k) + len(v)
	}
	if c.metadata > maxMetadata {
		return nil, fmt.Errorf("the directory's names and attributes have more than %d bytes; exclude some (.dockerignore): %w", maxMetadata, errdefs.ErrResourceExhausted)
	}
	e.id = uint32(len(c.entries))
	c.entries = append(c.entries, e)
	return &c.entries[len(c.entries)-1], nil
}

// place checks that the entry comes after the one before.
func (c *catalog) place(e *entry) error {
	if c.open == nil {
		c.open = []openDir{{path: "."}}
	}
	dir, name := path.Dir(e.Path), path.Base(e.Path)
	n := len(c.open)
	for n > 0 && c.open[n-1].path != dir {
		n--
	}
	if n == 0 {
		return fmt.Errorf("it is in no directory that is being announced")
	}
	c.open = c.open[:n]
	if name <= c.open[n-1].last {
		return fmt.Errorf("it comes after %q", path.Join(dir, c.open[n-1].last))
	}
	c.open[n-1].last = name
	if e.Mode.IsDir() {
		c.open = append(c.open, openDir{path: e.Path})
	}
	if e.isLink() && !c.hasFile(e.Linkname) {
		return fmt.Errorf("it is a link to %.200q, which is no file announced before", e.Linkname)
	}
	return nil
}

func (c *catalog) hasFile(p string) bool {
	i, ok := slices.BinarySearchFunc(c.entries, p, func(e entry, p string) int { return comparePaths(e.Path, p) })
	return ok && c.entries[i].regular() && !c.entries[i].isLink()
}

// newEntry checks what can be checked of one announcement.
func newEntry(st *types.Stat) (entry, error) {
	e := entry{ModTime: st.ModTime, Print: fingerprint(st)}
	if err := checkPath(st.Path); err != nil {
		return e, err
	}
	mode := fs.FileMode(st.Mode)
	e.Entry = checksum.Entry{Path: st.Path, Mode: mode, UID: st.Uid, GID: st.Gid}
	switch mode.Type() {
	case 0:
		if st.Size < 0 {
			return e, fmt.Errorf("it has %d bytes", st.Size)
		}
		e.Size, e.Linkname = st.Size, st.Linkname
	case fs.ModeSymlink:
		if st.Linkname == "" || len(st.Linkname) >= maxPath || strings.ContainsRune(st.Linkname, 0) {
			return e, fmt.Errorf("it is a symbolic link to %.200q", st.Linkname)
		}
		e.Linkname = st.Linkname
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		if st.Devmajor < 0 || st.Devmajor > 0xfff || st.Devminor < 0 || st.Devminor > 0xfffff {
			return e, fmt.Errorf("it is device %d:%d", st.Devmajor, st.Devminor)
		}
		e.Devmajor, e.Devminor = st.Devmajor, st.Devminor
	case fs.ModeDir, fs.ModeNamedPipe:
	default:
		return e, fmt.Errorf("it is of an unknown type (%v)", mode)
	}
	var err error
	e.Xattrs, err = usefulXattrs(mode, st.Xattrs)
	return e, err
}

func checkPath(p string) error {
	if len(p) >= maxPath {
		return fmt.Errorf("the path has %d bytes", len(p))
	}
	if p == "" || p == "." || strings.ContainsRune(p, 0) {
		return fmt.Errorf("the path is empty or has a NUL in it")
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." || len(part) > maxName {
			return fmt.Errorf("the path has %.20q in it", part)
		}
	}
	return nil
}

// usefulXattrs drops attributes that mean nothing here or that the kernel
// itself makes use of: a client's security labels, what overlayfs goes by.
func usefulXattrs(mode fs.FileMode, in map[string][]byte) (map[string][]byte, error) {
	var out map[string][]byte
	size := 0
	for k, v := range in {
		if size += len(k) + len(v); size > maxXattrs {
			return nil, fmt.Errorf("its attributes have more than %d bytes", maxXattrs)
		}
		ok := strings.HasPrefix(k, "user.") && !strings.HasPrefix(k, "user.overlay.") && len(k) > len("user.")
		if ok && (mode.IsRegular() || mode.IsDir()) || k == "security.capability" && mode.IsRegular() {
			if len(k) > maxName || strings.ContainsRune(k, 0) {
				return nil, fmt.Errorf("it has an attribute %.20q", k)
			}
			if out == nil {
				out = map[string][]byte{}
			}
			out[k] = v
		}
	}
	return out, nil
}

// fingerprint hashes all of an announcement but its path.
func fingerprint(st *types.Stat) (p mark) {
	b := make([]byte, 0, 128)
	for _, n := range []int64{int64(st.Mode), int64(st.Uid), int64(st.Gid), st.Size, st.ModTime, st.Devmajor, st.Devminor} {
		b = binary.AppendVarint(b, n)
	}
	field := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	field(st.Linkname)
	if len(st.Xattrs) > 0 {
		keys := make([]string, 0, len(st.Xattrs))
		for k := range st.Xattrs {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			field(k)
			field(string(st.Xattrs[k]))
		}
	}
	sum := sha256.Sum256(b)
	copy(p[:], sum[:])
	return p
}

// comparePaths orders paths as they are announced: what is in a directory
// comes right after it.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		default:
			return 1
		}
	}
	return len(a) - len(b)
}
