package fileop

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/continuity/sysx"
	"github.com/containerd/log"
)

// xattrs are the extended attributes of a file.
type xattrs struct {
	path   string
	list   func(string) ([]string, error)
	get    func(string, string) ([]byte, error)
	setter func(string, string, []byte, int) error
}

// openXattrs are those of an open file.
func openXattrs(f *os.File) xattrs {
	return xattrs{fmt.Sprintf("/proc/self/fd/%d", f.Fd()), sysx.Listxattr, sysx.Getxattr, sysx.Setxattr}
}

// entryXattrs are those of an entry that can't be opened.
func entryXattrs(dir *os.File, name string) xattrs {
	p := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
	return xattrs{p, sysx.LListxattr, sysx.LGetxattr, sysx.LSetxattr}
}

// copyXattrs copies what can be copied; p is the copy's path.
func (w *walk) copyXattrs(from, to xattrs, p string) {
	names, err := from.list(from.path)
	if err != nil {
		return // the file system has none
	}
	for _, name := range names {
		if !belongsToFile(name) {
			continue
		}
		value, err := from.get(from.path, name)
		if err == nil {
			err = to.setter(to.path, name, value, 0)
		}
		if err != nil {
			log.G(w.ctx).WithError(err).Warnf("leaving out extended attribute %s of %s", name, path.Join("/", p))
		}
	}
}

// belongsToFile tells an attribute of the file from one that the kernel keeps
// for its own use, on the file system that the file is on.
func belongsToFile(name string) bool {
	switch {
	case name == "security.capability":
		return true
	case strings.HasPrefix(name, "security."), strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
		return false
	}
	return true
}
