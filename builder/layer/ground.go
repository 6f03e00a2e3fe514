package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/kiln-build/kiln/builder/layer/changes"
	"github.com/kiln-build/kiln/builder/store"
)

// An overlay shows 500 directories at most, and each costs time. So when so many
// layers lie one on the other, a further one stands on a snapshot that has
// the changes of all of them together, as links to their files; and when there
// are as many such snapshots, on one for all of these. Layers stay what they are:
// their parents are in labels then, and a tree is shown by few directories.
const defaultRun = 64

// Labels that say so.
const (
	// labelParent is on a layer whose snapshot stands on a merged one: the
	// parent's name.
	labelParent = "kiln.build/parent"
	// labelLevel is on merged snapshots: 1 where layers were merged, else one
	// more than what was.
	labelLevel = "kiln.build/level"
	// refParent, with the snapshotter's name, keeps the parent of a layer.
	refParent = "containerd.io/gc.ref.snapshot."
)

// ground is a snapshot that others stand on.
type ground struct {
	name  string
	below *ground // nil for none
	level int     // 0 is a layer's own
	// run is how many of this level lie one on the other, this one included; 0
	// for a layer of an image, which isn't merged.
	run int
}

func newGround(name string, below *ground, level int) *ground {
	g := &ground{name: name, below: below, level: level}
	if strings.Contains(name, ":") { // a chain ID
		return g
	}
	g.run = 1
	if below != nil && below.level == level {
		g.run = below.run + 1
	}
	return g
}

// groundFor returns what a new tree on the parent is to stand on. It is on the
// lease that ctx carries.
func (s *Store) groundFor(ctx context.Context, parent *Layer) (*ground, error) {
	if parent == nil {
		return nil, nil
	}
	g := parent.ground
	for g != nil && g.run > 0 && g.run%s.maxRun == 0 {
		merged, err := s.merge(ctx, g)
		if errors.Is(err, changes.ErrIncomplete) {
			log.G(ctx).WithError(err).Debugf("the layers up to %s stay one on the other", parent.Name)
			return g, nil
		}
		if err != nil {
			return nil, fmt.Errorf("merge the layers up to %s: %w", parent.Name, noSpace(err))
		}
		g = merged
	}
	return g, nil
}

// merge makes one snapshot of as many as are merged, of which g is the highest, unless
// it is there.
func (s *Store) merge(ctx context.Context, g *ground) (*ground, error) {
	ctx = s.store.Context(ctx)
	below := g
	for range s.maxRun {
		below = below.below
	}
	merged := newGround(fmt.Sprintf("kiln-merged-%d-%s", g.level+1, strings.TrimPrefix(g.name, "kiln-")), below, g.level+1)
	unlock, err := s.merging.lock(ctx, merged.name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if found, err := s.adopt(ctx, merged.name); found || err != nil {
		return merged, err
	}
	v, release, err := s.views.acquire(ctx, &Layer{Name: g.name}, nil)
	if err != nil {
		return nil, err
	}
	defer release()
	dirs, ok := overlayLayers(v.mounts)
	if !ok || len(dirs) < s.maxRun {
		return nil, fmt.Errorf("the snapshotter doesn't keep changes in directories: %w", changes.ErrIncomplete)
	}
	var uppers []changes.Upper
	for i := s.maxRun - 1; i >= 0; i-- {
		uppers = append(uppers, changes.Upper{Dir: dirs[i], Xattrs: xattrPrefix(v)})
	}
	return merged, s.makeMerged(ctx, merged, g.name, uppers)
}

// makeMerged makes the snapshot; with is the one that keeps the same files.
func (s *Store) makeMerged(ctx context.Context, merged *ground, with string, uppers []changes.Upper) (err error) {
	key := "kiln-work-" + strings.ToLower(rand.Text())
	own := s.passing()
	own[store.LabelPrivate] = "true"
	mounts, err := s.store.Snapshots.Prepare(ctx, key, merged.below.snapshot(), snapshots.WithLabels(own))
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := s.cleanupContext(ctx)
		defer cancel()
		if rerr := s.store.Snapshots.Remove(ctx, key); rerr != nil && !errdefs.IsNotFound(rerr) {
			err = errors.Join(err, rerr)
		}
	}()
	to, ok := writableDir(mounts)
	if !ok {
		return fmt.Errorf("the new snapshot isn't a directory: %w", changes.ErrIncomplete)
	}
	if err := changes.Merge(ctx, to, uppers); err != nil {
		return err
	}
	linked, err := linkedLabel(to, with)
	if err != nil {
		return err
	}
	labels := map[string]string{labelLevel: strconv.Itoa(merged.level), labelLinked: linked}
	if lease, ok := leases.FromContext(ctx); ok {
		labels[labelLease] = lease
	}
	return s.store.Snapshots.Commit(ctx, merged.name, key, snapshots.WithLabels(labels))
}

// snapshot is the name of what stands there, "" for nothing.
func (g *ground) snapshot() string {
	if g == nil {
		return ""
	}
	return g.name
}

// base is what the layer's snapshot stands on: that has the parent's tree.
func (l *Layer) base() *Layer {
	if l.Parent == nil || l.ground == nil || l.ground.below == nil || l.ground.below.name == l.Parent.Name {
		return l.Parent
	}
	return &Layer{Name: l.ground.below.name}
}

// parentLabels say what a layer's parent is, where its snapshot doesn't.
func (s *Store) parentLabels(labels map[string]string, l *Layer) {
	if base := l.base(); base == l.Parent {
		return
	}
	labels[labelParent] = l.Parent.Name
	labels[refParent+s.store.Snapshotter] = l.Parent.Name
}

// grounds finds what the layers of a chain stand on, lowest first, of which the
// snapshots are infos.
func (s *Store) grounds(ctx context.Context, chain []*Layer, infos map[string]snapshots.Info) error {
	known := map[string]*ground{}
	var find func(name string) (*ground, error)
	find = func(name string) (*ground, error) {
		if g, ok := known[name]; ok || name == "" {
			return g, nil
		}
		info, ok := infos[name]
		if !ok {
			var err error
			if info, err = s.store.Snapshots.Stat(ctx, name); err != nil {
				return nil, fmt.Errorf("layer %s: %w", name, err)
			}
		}
		below, err := find(info.Parent)
		if err != nil {
			return nil, err
		}
		level, _ := strconv.Atoi(info.Labels[labelLevel])
		known[name] = newGround(name, below, level)
		return known[name], nil
	}
	for _, l := range chain {
		var err error
		if l.ground, err = find(l.Name); err != nil {
			return err
		}
	}
	return nil
}
