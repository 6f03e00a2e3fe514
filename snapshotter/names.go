package snapshotter

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
)

// Labels of the handshake. They have containerd's prefix since it hands on no
// others.
const (
	// LabelAlias has a ticket of [Snapshotter.Offer].
	LabelAlias = "containerd.io/snapshot/kiln.alias"
	// LabelShares is on an alias: the name whose directory it was given.
	LabelShares = "containerd.io/snapshot/kiln.shares"
	// LabelTransient, with any value, is on active snapshots and views that nobody
	// wants back after a restart of the snapshotter: they are only in memory.
	LabelTransient = "containerd.io/snapshot/kiln.transient"
	// labelChainParent is the chain ID below, which containerd tells where it
	// unpacks layers side by side and gives the parent at Commit.
	labelChainParent = "containerd.io/snapshot/parent-chain-id"
)

// Limits of what comes in. containerd allows 4096 bytes for a label.
const (
	maxName   = 4096
	maxLabels = 1 << 20
)

// entry is a name and what it leads to.
type entry struct {
	name    string
	kind    snapshots.Kind
	node    *node // nil for a view of nothing
	parent  string
	labels  map[string]string
	created time.Time
	updated time.Time
	private bool // the space that it is in
	// unsynced: the files may not be on disk. Guarded by disk.mu and space.write.
	unsynced bool

	children int // entries of the same space whose parent this is
}

// info describes e. The labels are the caller's own.
func (e *entry) info() snapshots.Info {
	return snapshots.Info{
		Kind: e.kind, Name: e.name, Parent: e.parent, Labels: maps.Clone(e.labels),
		Created: e.created, Updated: e.updated,
	}
}

// transient says whether the name isn't on disk.
func (e *entry) transient() bool {
	return e.kind != snapshots.KindCommitted && e.labels[LabelTransient] != ""
}

// counts says whether bytes on disk may count for the name.
func (e *entry) counts() bool {
	_, kept := Kept(e.name)
	return e.kind != snapshots.KindView && !kept
}

// newEntry checks what a caller wants to make.
func newEntry(kind snapshots.Kind, name, parent string, opts []snapshots.Opt) (*entry, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return nil, err
		}
	}
	if parent == "" {
		parent = info.Parent
	} else if info.Parent != "" && info.Parent != parent {
		return nil, fmt.Errorf("snapshot %q stands on %q and can't be put on %q: %w", name, parent, info.Parent, errdefs.ErrInvalidArgument)
	}
	if err := checkLabels(name, info.Labels); err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	return &entry{name: name, kind: kind, parent: parent, labels: info.Labels, created: now, updated: now}, nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxName || strings.ContainsRune(name, 0) {
		return fmt.Errorf("a snapshot's name has 1 to %d bytes and no zero, this one has %d: %w", maxName, len(name), errdefs.ErrInvalidArgument)
	}
	return nil
}

func checkLabels(name string, all map[string]string) error {
	size := 0
	for k, v := range all {
		if err := labels.Validate(k, v); err != nil {
			return fmt.Errorf("snapshot %q: %w", name, err)
		}
		size += len(k) + len(v)
	}
	if size > maxLabels {
		return fmt.Errorf("snapshot %q: its labels have %d bytes, more than %d: %w", name, size, maxLabels, errdefs.ErrInvalidArgument)
	}
	return nil
}

// updateLabels returns the labels that e has after an update; "labels.KEY" and
// "labels" are the paths that there are.
func updateLabels(e *entry, updated map[string]string, paths []string) (map[string]string, error) {
	all := maps.Clone(e.labels)
	if len(paths) == 0 {
		paths = []string{"labels"}
	}
	for _, path := range paths {
		key, one := strings.CutPrefix(path, "labels.")
		switch {
		case one && updated[key] == "":
			delete(all, key)
		case one:
			if all == nil {
				all = map[string]string{}
			}
			all[key] = updated[key]
		case path == "labels":
			all = maps.Clone(updated)
		default:
			return nil, fmt.Errorf("snapshot %q: %q can't be changed, only labels can: %w", e.name, path, errdefs.ErrInvalidArgument)
		}
	}
	return all, checkLabels(e.name, all)
}

// containerdName is the name that containerd's clients see, of one that
// containerd made: NAMESPACE/NUMBER/NAME.
func containerdName(full string) string {
	if parts := strings.SplitN(full, "/", 3); len(parts) == 3 {
		return parts[2]
	}
	return full
}
