package layer

import (
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
)

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
