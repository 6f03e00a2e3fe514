package checksum

import (
	"crypto/sha256"
	"hash"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Entry is one entry of a complete tree.
type Entry struct {
	// Path is relative to the root of the tree, which has "" or ".".
	Path string
	Mode fs.FileMode
	UID  uint32
	GID  uint32
	// Size is that of a regular file's content.
	Size int64
	// Linkname is the target of a symbolic link; for a regular file, the Path
	// of an entry that is the same file.
	Linkname           string
	Devmajor, Devminor int64
	Xattrs             map[string][]byte
	// Digest is the hex SHA-256, after "sha256:", of what was written to
	// NewHash, the content of a regular file included. It may be empty where
	// there is no content.
	Digest string
}

// NewHash returns a SHA-256 hash of e's metadata that goes on with the content
// of a regular file. Path does not count.
func NewHash(e Entry) hash.Hash {
	h := sha256.New()
	writeHeader(h, e)
	return h
}

// writeHeader writes metadata as Docker's "tarsum" version 1 has it: keys and
// values without anything between them, the name left empty.
func writeHeader(w io.Writer, e Entry) {
	var b strings.Builder
	field := func(key, value string) {
		b.WriteString(key)
		b.WriteString(value)
	}
	number := func(key string, value int64) { field(key, strconv.FormatInt(value, 10)) }

	typeflag, link, size, major, minor := "0", "", int64(0), int64(0), int64(0)
	perm := e.Mode.Perm()
	switch {
	case e.Mode.IsRegular():
		size = e.Size
	case e.Mode.IsDir():
		typeflag = "5"
	case e.Mode&fs.ModeSymlink != 0:
		typeflag, link, perm = "2", e.Linkname, 0o777
	case e.Mode&fs.ModeCharDevice != 0:
		typeflag, major, minor = "3", e.Devmajor, e.Devminor
	case e.Mode&fs.ModeDevice != 0:
		typeflag, major, minor = "4", e.Devmajor, e.Devminor
	case e.Mode&fs.ModeNamedPipe != 0:
		typeflag = "6"
	}
	field("name", "")
	number("mode", int64(perm)|special(e.Mode))
	number("uid", int64(e.UID))
	number("gid", int64(e.GID))
	number("size", size)
	field("typeflag", typeflag)
	field("linkname", link)
	field("uname", "")
	field("gname", "")
	number("devmajor", major)
	number("devminor", minor)
	keys := make([]string, 0, len(e.Xattrs))
	for k := range e.Xattrs {
		if countsXattr(k) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		field(k, string(e.Xattrs[k]))
	}
	_, _ = io.WriteString(w, b.String())
}

// special gives a mode's upper bits as Unix has them.
func special(m fs.FileMode) int64 {
	var bits int64
	if m&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}

// countsXattr tells if an extended attribute is content. What the kernel's
// security modules and overlayfs keep in attributes is not.
func countsXattr(name string) bool {
	for _, prefix := range []string{"system.", "security.", "trusted.overlay.", "user.overlay."} {
		if strings.HasPrefix(name, prefix) {
			return name == "security.capability"
		}
	}
	return true
}
