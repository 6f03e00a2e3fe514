package local

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/kiln-build/kiln/builder/layer/checksum"
)

// applier brings a tree from one state to another.
type applier struct {
	tree     *tree
	previous *os.Root // of the previous transfer's tree; nil where there is none
	want     func(*os.File, *entry) error
	touched  map[string]bool // directories that need their metadata again
}

// apply takes the steps. Files that were asked for come later, beside it.
func (a *applier) apply(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if s.do == adjust || s.do == makeEntry && s.e.Mode.IsDir() {
			a.touched[s.path] = true
		}
		a.touched[path.Dir(s.path)] = true
		if err := a.step(s); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) step(s step) error {
	switch s.do {
	case remove:
		return a.tree.remove(s.path)
	case makeEntry:
		return a.tree.make(s.e)
	case adjust:
		return nil // in the end
	}
	f, err := a.tree.create(s.e)
	if err != nil {
		return err
	}
	switch s.do {
	case fetch:
		return a.want(f, s.e)
	case fill:
		return a.fill(f, s.e)
	default:
		return a.copy(f, s.e)
	}
}

func (a *applier) fill(f *os.File, e *entry) error {
	h := checksum.NewHash(e.Entry)
	h.Write(e.content)
	if _, err := f.Write(e.content); err != nil {
		f.Close()
		return err
	}
	return finishFile(f, e, h, int64(len(e.content)))
}

// copy takes a file over from the previous tree. Its digest stays.
func (a *applier) copy(f *os.File, e *entry) error {
	defer f.Close()
	src, err := a.previous.Open(e.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	if n, err := io.Copy(f, src); err != nil || n != e.Size {
		return fmt.Errorf("%s: copy of %d bytes from the previous transfer, got %d: %w", e.Path, e.Size, n, err)
	}
	return setMetadata(f, e)
}

// finish gives the directories their metadata, once nothing changes in them
// any more.
func (a *applier) finish(entries []entry) error {
	for i := range entries {
		if e := &entries[i]; e.Mode.IsDir() && a.touched[e.Path] {
			if err := a.tree.finishDir(e); err != nil {
				return err
			}
		}
	}
	return nil
}
