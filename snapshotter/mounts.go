package snapshotter

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// Mounts implements [snapshots.Snapshotter].
func (sp *space) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	sp.mu.Lock()
	e, err := sp.find(key)
	if err == nil && e.kind == snapshots.KindCommitted {
		err = fmt.Errorf("snapshot %q is neither active nor a view: %w", key, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		sp.mu.Unlock()
		return nil, err
	}
	n := e.node
	n.pin()
	sp.mu.Unlock()
	defer sp.unpin(n)
	if err := sp.ready(ctx, n); err != nil {
		return nil, err
	}
	return sp.mountsOf(e), nil
}

// mountsOf says how to mount an active snapshot or a view.
func (d *disk) mountsOf(e *entry) []mount.Mount {
	d.mu.RLock()
	defer d.mu.RUnlock()
	chain := e.node.chain()
	switch {
	case len(chain) == 0:
		return bind(filepath.Join(d.root, "empty"), "ro")
	case e.kind == snapshots.KindView && len(chain) == 1:
		return bind(d.fs(chain[0]), "ro")
	case e.kind == snapshots.KindView:
		return d.overlay(chain)
	case e.node.lazy != nil: // is there already; what calls us sees that it can't write
		return bind(d.fs(chain[0]), "ro")
	case len(chain) > 1:
		return d.overlay(chain[1:], "workdir="+d.work(chain[0]), "upperdir="+d.fs(chain[0]))
	case e.overlaid():
		return d.overlay(nil, "workdir="+d.work(chain[0]), "upperdir="+d.fs(chain[0]))
	}
	return bind(d.fs(chain[0]), "rw")
}

func bind(dir, mode string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{mode, "rbind"}}}
}

// overlay stacks directories, the first on top; none is an empty tree.
func (d *disk) overlay(lower []*node, options ...string) []mount.Mount {
	dirs := make([]string, len(lower))
	for i, n := range lower {
		dirs[i] = d.fs(n)
	}
	if len(dirs) == 0 {
		dirs = []string{filepath.Join(d.root, "empty")}
	}
	options = append(options, "lowerdir="+strings.Join(dirs, ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(options, d.options...)}}
}
