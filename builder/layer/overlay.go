package layer

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/kiln-build/kiln/builder/layer/changes"
)

// diff is a mounted layer with its mounted parent, which is empty where there
// is none.
type diff struct{ upper, lower *view }

// diff mounts a layer and its parent until release is called.
func (s *Store) diff(ctx context.Context, l *Layer) (d diff, release func(), err error) {
	d.lower = &view{}
	upper, releaseUpper, err := s.views.acquire(ctx, l, nil)
	if err != nil {
		return diff{}, nil, err
	}
	d.upper = upper
	if l.Parent == nil {
		return d, releaseUpper, nil
	}
	lower, releaseLower, err := s.views.acquire(ctx, l.base(), nil)
	if err != nil {
		releaseUpper()
		return diff{}, nil, err
	}
	d.lower = lower
	return d, func() { releaseLower(); releaseUpper() }, nil
}

// changes finds the directory that holds only what the layer changes, where the
// snapshotter keeps one.
func (d diff) changes() (changes.Upper, bool) {
	dirs, ok := overlayLayers(d.upper.mounts)
	if !ok {
		return changes.Upper{}, false
	}
	var below []string
	if d.lower.dir != "" {
		if below, ok = overlayLayers(d.lower.mounts); !ok {
			return changes.Upper{}, false
		}
	}
	if len(dirs) == 0 || !slices.Equal(dirs[1:], below) {
		return changes.Upper{}, false
	}
	return changes.Upper{Dir: dirs[0], Base: d.lower.dir, Xattrs: xattrPrefix(d.upper)}, true
}

// writableDir returns the directory that what is written to the mounts of a new
// overlayfs snapshot ends up in.
func writableDir(mounts []mount.Mount) (string, bool) {
	if len(mounts) != 1 {
		return "", false
	}
	switch m := mounts[0]; m.Type {
	case "bind":
		return m.Source, true
	case "overlay":
		for _, o := range m.Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				return dir, true
			}
		}
	}
	return "", false
}

// overlayLayers returns the directories that a read-only mount of overlayfs's
// snapshots shows, highest first. ok is false for any other kind of mount.
func overlayLayers(mounts []mount.Mount) (dirs []string, ok bool) {
	if len(mounts) != 1 {
		return nil, false
	}
	switch m := mounts[0]; m.Type {
	case "bind":
		return []string{m.Source}, true
	case "overlay":
		for _, o := range m.Options {
			if lower, found := strings.CutPrefix(o, "lowerdir="); found {
				dirs = strings.Split(lower, ":")
			}
			if strings.HasPrefix(o, "upperdir=") || strings.HasPrefix(o, "uidmap=") || strings.HasPrefix(o, "gidmap=") {
				return nil, false
			}
		}
	}
	return dirs, len(dirs) > 0
}

// xattrPrefix returns what the names of an overlay's own attributes start with.
func xattrPrefix(v *view) string {
	if slices.Contains(v.mounts[0].Options, "userxattr") {
		return "user.overlay."
	}
	return "trusted.overlay."
}
