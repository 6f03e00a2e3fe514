package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/export"
	"github.com/kiln-build/kiln/builder/layer"
	"golang.org/x/sys/unix"
)

// addSystem adds what takes space and isn't a record: of a containerd of our
// own all that lies there, of another's what our leases keep.
func (b *Builder) addSystem(ctx context.Context, s *survey) error {
	own := b.cfg.Store.Root != ""
	for _, l := range s.leases {
		if !own && !b.ours(l) {
			continue
		}
		roots, err := s.roots(ctx, l.ID)
		if err != nil {
			return err
		}
		if err := s.addLine(ctx, "lease "+l.ID, b.purpose(l), roots...); err != nil {
			return err
		}
	}
	if own {
		for _, img := range s.images {
			if err := s.addLine(ctx, "image "+img.Name, "needed by the image alone", blob(img.Target.Digest)); err != nil {
				return err
			}
		}
		if err := s.addLine(ctx, "unreferenced", "removed by the next collection", slices.Collect(maps.Keys(s.rest))...); err != nil {
			return err
		}
	}
	bytes, err := b.ownFiles()
	s.system = append(s.system, cache.Usage{
		ID: "databases", InUse: true, Size: bytes, Description: "databases, logs and directories", Type: cache.System,
	})
	return err
}

// addLine adds a line for what nobody has of the resources and what they need,
// unless that is nothing.
func (s *survey) addLine(ctx context.Context, id, what string, roots ...leases.Resource) error {
	u := cache.Usage{ID: id, InUse: true, Created: time.Now(), Description: what, Type: cache.System}
	some, err := s.count(ctx, &u, roots...)
	if some {
		s.system = append(s.system, u)
	}
	return err
}

// ours says whether a lease was made by this builder, or by one of the parts
// that it consists of.
func (b *Builder) ours(l leases.Lease) bool {
	if owner := l.Labels[labelOwner]; owner != "" {
		return owner == b.id
	}
	for key := range l.Labels {
		if strings.HasPrefix(key, "kiln.build/") {
			return true
		}
	}
	return strings.HasPrefix(l.ID, "kiln-mounts-")
}

// purpose says for people what a lease is for.
func (b *Builder) purpose(l leases.Lease) string {
	switch {
	case strings.HasPrefix(l.ID, "kiln/"+b.id+"/temporary/"):
		return "left by a failed step, while somebody may look at it"
	case strings.HasPrefix(l.ID, "kiln/"+b.id+"/"):
		return "made by a step that runs"
	case strings.HasPrefix(l.ID, "kiln-mounts-"):
		return "mounted"
	case l.Labels[export.LabelExport] != "":
		return "being exported"
	case l.Labels[layer.LabelStore] != "":
		return "a blob that is being made"
	}
	return fmt.Sprintf("kept by lease %s", l.ID)
}

// ownFiles is how many bytes the builder's directory takes on disk besides what is
// in containerd. What is mounted there doesn't count.
func (b *Builder) ownFiles() (int64, error) {
	var bytes int64
	if f := b.cfg.Store.Overhead; f != nil {
		n, err := f()
		if err != nil {
			return 0, err
		}
		bytes = n
	}
	var root unix.Stat_t
	if err := unix.Stat(b.cfg.Root, &root); err != nil {
		return 0, fmt.Errorf("%s: %w", b.cfg.Root, err)
	}
	mounts := filepath.Join(b.cfg.Root, "layers", "mounts")
	err := filepath.WalkDir(b.cfg.Root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if path == b.cfg.Store.Root || filepath.Dir(path) == mounts {
			return filepath.SkipDir
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if ok && st.Dev != root.Dev {
			return filepath.SkipDir
		}
		if ok {
			bytes += st.Blocks * 512
		}
		return nil
	})
	return bytes, err
}

// pins lists what keeps a record, or something of it: builds that run, records
// that stand on it, images, and leases.
func (b *Builder) pins(ctx context.Context, id string) ([]cache.Usage, error) {
	s, err := b.survey(ctx)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(s.records, func(u cache.Usage) bool { return u.ID == id })
	if at < 0 {
		return nil, fmt.Errorf("record %s: %w", id, errdefs.ErrNotFound)
	}
	own := b.records.lease(cache.ID(id))
	held, err := s.held(ctx, own)
	if err != nil {
		return nil, err
	}
	var pins []cache.Usage
	for _, ref := range b.using(cache.ID(id)) {
		pins = append(pins, cache.Usage{ID: ref, InUse: true, Description: "a build that runs", Type: "build"})
	}
	for _, u := range s.records {
		if slices.Contains(u.Parents, id) {
			pins = append(pins, u)
		}
	}
	for _, img := range s.images {
		needs := s.reach(blob(img.Target.Digest))
		for r := range maps.Clone(needs) {
			if with, _ := s.linked(r); with != "" {
				needs[s.snapshot(with)] = true
			}
		}
		if overlap(held, needs) {
			pins = append(pins, cache.Usage{ID: img.Name, Created: img.CreatedAt, Description: "an image", Type: "image"})
		}
	}
	for _, l := range s.leases {
		if l.ID == own || !b.foreign(l) {
			continue
		}
		if other, err := s.held(ctx, l.ID); err != nil {
			return nil, err
		} else if overlap(held, other) {
			pins = append(pins, cache.Usage{ID: l.ID, Created: l.CreatedAt, Description: b.purpose(l), Type: "lease"})
		}
	}
	return pins, nil
}

// foreign says whether a lease isn't that of a record, which is a pin itself.
func (b *Builder) foreign(l leases.Lease) bool {
	id, ok := strings.CutPrefix(l.ID, "kiln/"+b.id+"/")
	if !ok {
		return true
	}
	_, err := b.records.Get(cache.ID(id))
	return err != nil
}

// using are the refs of the builds that have acquired a record.
func (b *Builder) using(id cache.ID) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var refs []string
	for ref, r := range b.builds {
		if r.build.Uses(id) {
			refs = append(refs, ref)
		}
	}
	slices.Sort(refs)
	return refs
}

func inUseOrGone(err error) bool { return errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) }
