package layer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/builder/idmap"
)

// mountFor mounts all on the directory, or nothing, so that what lies on disk as a
// user's is that of the user in ids' namespaces. Nil ids are nobody else's.
func (s *Store) mountFor(ids *idmap.Map, mounts []mount.Mount, dir string) error {
	if ids == nil {
		return mountAll(mounts, dir)
	}
	if len(mounts) != 1 {
		return fmt.Errorf("users can't be remapped in a tree of %d mounts: %w", len(mounts), errdefs.ErrNotImplemented)
	}
	switch m := mounts[0]; m.Type {
	case "bind":
		var attrs uint64
		if slices.Contains(m.Options, "ro") {
			attrs = unix.MOUNT_ATTR_RDONLY
		}
		return ids.Bind(m.Source, dir, attrs)
	case "overlay":
		return s.mountOverlayFor(ids, m, dir)
	default:
		return fmt.Errorf("users can't be remapped in a tree that %s shows; use the overlayfs snapshotter: %w", m.Type, errdefs.ErrNotImplemented)
	}
}

// mountOverlayFor mounts an overlay of directories whose owners are mapped: the owners
// of an overlay itself can't be. The directories are those of one mapped mount, which
// the overlay doesn't need any more when it is there, since upper and work directory
// have to be of one mount.
func (s *Store) mountOverlayFor(ids *idmap.Map, m mount.Mount, dir string) (err error) {
	common := commonDir(overlayDirs(m))
	mapped, err := s.newDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmountDir(mapped)) }()
	if err := ids.Bind(common, mapped, 0); err != nil {
		return err
	}
	below := func(d string) string { return mapped + strings.TrimPrefix(d, strings.TrimSuffix(common, "/")) }
	for _, d := range overlayDirs(m) {
		if err := sameDir(d, below(d)); err != nil {
			return err
		}
	}
	m.Options = mapOverlayDirs(m.Options, below)
	return ids.Do(func() error { return mountAll([]mount.Mount{m}, dir) })
}

// sameDir fails if a directory isn't what is at its place in the mapped mount, which
// has no other mounts in it.
func sameDir(dir, mapped string) error {
	want, err := os.Stat(dir)
	if err != nil {
		return err
	}
	got, err := os.Stat(mapped)
	if err != nil {
		return err
	}
	if !os.SameFile(want, got) {
		return fmt.Errorf("users can't be remapped in %s, which is a mount of its own, as of a lazily pulled layer: pull layers in full, or don't remap users: %w", dir, errdefs.ErrNotImplemented)
	}
	return nil
}

// overlayDirs are all directories that an overlay is made of.
func overlayDirs(m mount.Mount) []string {
	var dirs []string
	mapOverlayDirs(m.Options, func(dir string) string {
		dirs = append(dirs, dir)
		return dir
	})
	return dirs
}

// mapOverlayDirs replaces the directories in an overlay's options.
func mapOverlayDirs(options []string, f func(string) string) []string {
	out := slices.Clone(options)
	for i, o := range out {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir", "upperdir", "workdir":
			dirs := []string{value}
			if key == "lowerdir" {
				dirs = strings.Split(value, ":")
			}
			for j, d := range dirs {
				dirs[j] = f(filepath.Clean(d))
			}
			out[i] = key + "=" + strings.Join(dirs, ":")
		}
	}
	return out
}

// commonDir is the innermost directory that all are in, or are.
func commonDir(dirs []string) string {
	common := dirs[0]
	for _, d := range dirs[1:] {
		for d != common && !strings.HasPrefix(d, strings.TrimSuffix(common, "/")+"/") {
			common = filepath.Dir(common)
		}
	}
	return common
}

// prepareFor tells why nothing can be mounted for processes of ids, and lets their root
// pass through to what will be: an OCI runtime looks for it as such.
func (s *Store) prepareFor(ids *idmap.Map) (err error) {
	if ids == nil {
		return nil
	}
	if err := errors.Join(ids.Admit(s.root), ids.Admit(filepath.Join(s.root, "mounts"))); err != nil {
		return err
	}
	dir := filepath.Join(s.root, "try")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var options []string
	for _, name := range []string{"lowerdir", "upperdir", "workdir"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
		options = append(options, name+"="+filepath.Join(dir, name))
	}
	at, err := s.newDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmountDir(at)) }()
	if err := s.mountFor(ids, []mount.Mount{{Type: "overlay", Options: options}}, at); err != nil {
		return fmt.Errorf("remap users in overlays; that takes Linux 5.19: %w", err)
	}
	return ids.Do(func() error { return os.Mkdir(filepath.Join(at, "try"), 0o755) })
}
