package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/tonistiigi/fsutil"
)

// join lays the trees over each other. Only directories may be in several.
func join(dirs []platformDir) fsutil.FS {
	if len(dirs) == 1 {
		return dirs[0].FS
	}
	return joined(dirs)
}

type joined []platformDir

// Open implements fsutil.FS.
func (j joined) Open(path string) (io.ReadCloser, error) {
	for _, d := range j {
		f, err := d.Open(path)
		if !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
	}
	return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist}
}

// Walk implements fsutil.FS, but that fn can't skip directories.
func (j joined) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	heads := make([]*head, 0, len(j))
	for _, d := range j {
		next, stop := iter.Pull(walk(ctx, d, target))
		defer stop()
		h := &head{dir: d, next: next}
		if h.advance() {
			heads = append(heads, h)
		}
	}
	for len(heads) > 0 {
		first := heads[0]
		for _, h := range heads[1:] {
			if h.key < first.key {
				first = h
			}
		}
		e := first.entry
		for _, h := range heads {
			if h != first && h.key == first.key && !(e.isDir() && h.entry.isDir()) {
				return fmt.Errorf("cannot overwrite %s from %s with %s when split option is disabled: %w",
					e.path, first.dir.id, h.dir.id, errdefs.ErrInvalidArgument)
			}
		}
		if e.DirEntry == nil && e.err != nil {
			return e.err
		}
		if err := fn(e.path, e.DirEntry, e.err); err != nil {
			return err
		}
		heads = pass(heads, first.key)
	}
	return nil
}

// pass moves all walks on that are at the path.
func pass(heads []*head, key string) []*head {
	var left []*head
	for _, h := range heads {
		if h.key != key || h.advance() {
			left = append(left, h)
		}
	}
	return left
}

// head is where the walk of one tree is.
type head struct {
	dir   platformDir
	next  func() (entry, bool)
	entry entry
	key   string
}

func (h *head) advance() bool {
	var ok bool
	if h.entry, ok = h.next(); ok {
		// Below a directory come its entries, and then what sorts after it.
		h.key = strings.ReplaceAll(h.entry.path, string(filepath.Separator), "\x00")
	}
	return ok
}

// entry is what a walk finds.
type entry struct {
	fs.DirEntry
	path string
	err  error
}

func (e entry) isDir() bool { return e.DirEntry != nil && e.IsDir() }

func walk(ctx context.Context, tree fsutil.FS, target string) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		stopped := false
		err := tree.Walk(ctx, target, func(path string, d fs.DirEntry, err error) error {
			if stopped = !yield(entry{d, path, err}); stopped {
				return filepath.SkipAll
			}
			return nil
		})
		if err != nil && !stopped {
			yield(entry{err: err})
		}
	}
}
