package fileop

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/kiln-build/kiln/builder/layer/checksum"
	"golang.org/x/sys/unix"
)

// glob gives the paths that a pattern matches, sorted. What comes before the
// first element that is a pattern is found with resolve and must exist; after
// it no links are followed. A path without pattern is given as it is.
func (t *Tree) glob(p string, resolve func(string) (string, error)) ([]string, error) {
	dir, pattern := checksum.SplitPattern(path.Join("/", p))
	if pattern == "" {
		return []string{p}, nil
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("invalid pattern %q: %w", p, err)
	}
	at, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	if _, err := t.stat(at); err != nil {
		return nil, err
	}
	paths := []string{at}
	for _, element := range strings.Split(pattern, "/") {
		var next []string
		for _, p := range paths {
			names, err := t.matching(p, element)
			if err != nil {
				return nil, err
			}
			next = append(next, names...)
		}
		paths = next
	}
	return paths, nil
}

// matching gives the paths of the entries of the directory p that match. What
// is no directory has none.
func (t *Tree) matching(p, pattern string) ([]string, error) {
	d, err := t.openDir(p)
	if isNotFound(err) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := readDir(d)
	if err != nil {
		return nil, pathError("readdir", p, errno(err))
	}
	var paths []string
	for _, e := range entries {
		if ok, err := path.Match(pattern, e.Name()); err != nil {
			return nil, fmt.Errorf("invalid pattern %q: %w", pattern, err)
		} else if ok {
			paths = append(paths, path.Join(p, e.Name()))
		}
	}
	return paths, nil
}

// readDir lists an open directory, sorted by name.
func readDir(d *os.File) ([]os.DirEntry, error) {
	// Through this name the entries can be examined wherever the tree is.
	return os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", d.Fd()))
}
