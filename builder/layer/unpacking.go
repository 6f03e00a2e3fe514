package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	cdiff "github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/builder/event"
)

// unpacking is one call of Unpack.
type unpacking struct {
	s        *Store
	img      Image
	names    names
	tree     []*Layer // of img.Tree; may be empty
	fetches  fetches
	progress event.Progress
}

// layer makes layer i, whose parent exists, and returns its name.
func (u *unpacking) layer(ctx context.Context, i int, parent string) (string, error) {
	s := u.s
	unlock, err := s.unpacking.lock(ctx, u.names.chain[i])
	if err != nil {
		return "", err
	}
	defer unlock()
	if name, err := s.have(ctx, u.img, u.names, i); name != "" || err != nil {
		return name, err
	}
	name, err := u.target(ctx, i, parent)
	if err != nil {
		return "", err
	}
	labels, err := u.img.snapshotLabels(i, name)
	if err == nil {
		err = u.shown(ctx, i, labels)
	}
	if err != nil {
		return "", err
	}
	key := fmt.Sprintf(snapshots.UnpackKeyFormat, "kiln-"+strings.ToLower(rand.Text()), name)
	owned := maps.Clone(labels)
	maps.Copy(owned, s.passing())
	offered, withdraw := u.offer(ctx, i, owned)
	defer withdraw()
	mounts, err := s.store.Snapshots.Prepare(ctx, key, parent, snapshots.WithLabels(owned))
	if errdefs.IsAlreadyExists(err) { // an alias, a lazy snapshotter has the layer, or somebody was faster
		if offered {
			u.progress.Begin("sharing layer " + u.img.Layers[i].Digest.String()).Done()
		}
		return name, u.believe(ctx, i, name)
	}
	if err != nil {
		return "", err
	}
	if err = u.fill(ctx, i, mounts, labels); err == nil {
		name, err = u.commit(ctx, i, parent, commit{key: key, labels: labels})
	}
	if err != nil {
		ctx, cancel := s.cleanupContext(ctx)
		defer cancel()
		if rerr := s.store.Snapshots.Remove(ctx, key); rerr != nil {
			return "", errors.Join(err, rerr)
		}
	}
	if errdefs.IsAlreadyExists(err) {
		return name, u.believe(ctx, i, name) // somebody else unpacks the same
	}
	return name, err
}

// target is the name that layer i is to have.
func (u *unpacking) target(ctx context.Context, i int, parent string) (string, error) {
	if u.img.Tree != nil {
		return u.names.chain[i], nil // the caller vouches for it
	}
	name := u.names.wanted(i, parent)
	if name != u.names.chain[i] {
		return name, nil
	}
	_, err := u.s.store.Snapshots.Stat(ctx, name)
	if errdefs.IsNotFound(err) {
		return name, nil
	}
	return u.names.blobs[i], err // what has the chain ID isn't to be trusted
}

// believe fails where a snapshot that somebody else made meanwhile has the name of
// layer i, and isn't to be trusted.
func (u *unpacking) believe(ctx context.Context, i int, name string) error {
	if u.img.Tree != nil || name != u.names.chain[i] {
		return nil
	}
	trusted, err := u.s.trusted(ctx, u.img, i, name)
	if err == nil && !trusted {
		err = fmt.Errorf("snapshot %s was just made of another image's blob; build again: %w", name, errdefs.ErrUnavailable)
	}
	return err
}

// commit is a snapshot that holds a layer whose diff ID was computed.
type commit struct {
	key    string
	labels map[string]string
}

// commit gives layer i its name: its chain ID where all below it were checked, too,
// and nobody shows something else under that name.
func (u *unpacking) commit(ctx context.Context, i int, parent string, c commit) (string, error) {
	c.labels[labelChecked] = u.names.chain[i]
	all := []string{u.names.chain[i], u.names.blobs[i]}
	if !u.names.checked(i, parent) && u.img.Tree == nil {
		all = all[1:]
	}
	var err error
	for _, name := range all {
		c.labels[snapshots.LabelSnapshotRef] = name
		err = u.s.store.Snapshots.Commit(ctx, name, c.key, snapshots.WithLabels(c.labels))
		if !errdefs.IsAlreadyExists(err) {
			return name, err
		}
		if u.img.Tree != nil {
			return name, err
		}
		if trusted, terr := u.s.trusted(ctx, u.img, i, name); trusted || terr != nil {
			return name, errors.Join(err, terr)
		}
	}
	return all[len(all)-1], err
}

// shown adds what a lazy snapshotter was told of the layer that the tree has in
// place of layer i, so that it can show it under another name.
func (u *unpacking) shown(ctx context.Context, i int, labels map[string]string) error {
	if len(u.tree) == 0 || !Lazy(u.img.Layers[i]) {
		return nil
	}
	info, err := u.s.store.Snapshots.Stat(ctx, u.tree[i].Name)
	if err != nil {
		return err
	}
	for k, v := range snapshots.FilterInheritedLabels(info.Labels) {
		if _, ok := labels[k]; !ok {
			labels[k] = v
		}
	}
	return nil
}

// offer lets the snapshotter give the snapshot that layer i was made of the
// layer's name, if it is kiln's own. It adds to the labels that are for Prepare.
func (u *unpacking) offer(ctx context.Context, i int, prepare map[string]string) (offered bool, withdraw func()) {
	if len(u.tree) == 0 || u.s.store.Offer == nil {
		return false, func() {}
	}
	more, withdraw, err := u.s.store.Offer(u.tree[i].Name, u.names.chain[i])
	if err != nil {
		log.G(ctx).WithError(err).Debugf("layer %s can't be shared", u.img.Layers[i].Digest)
		return false, func() {}
	}
	maps.Copy(prepare, more)
	delete(prepare, labelTransient)                                  // what comes of it stays
	prepare[labelLinked] = linkedText(math.MaxInt64, u.tree[i].Name) // all that it has
	return true, withdraw
}

// fill makes the files of layer i on a new snapshot's mounts. It adds to the
// labels that the snapshot will have.
func (u *unpacking) fill(ctx context.Context, i int, mounts []mount.Mount, labels map[string]string) error {
	if len(u.tree) > 0 {
		linked, err := u.s.linkTree(ctx, u.tree[i], mounts)
		if err == nil {
			labels[labelLinked] = linked
			u.progress.Begin("linking layer " + u.img.Layers[i].Digest.String()).Done()
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		log.G(ctx).WithError(err).Debugf("layer %s is unpacked", u.img.Layers[i].Digest)
	}
	if err := u.fetches.fetched(ctx, i); err != nil {
		return err
	}
	desc, diffID := u.img.Layers[i], u.img.DiffIDs[i]
	item := u.progress.Begin("extracting " + desc.Digest.String())
	defer item.Done()
	applied, err := u.s.store.Applier.Apply(ctx, desc, mounts, cdiff.WithProgress(func(d ocispec.Descriptor, n int64) {
		item.Set(n, d.Size)
	}))
	if err != nil {
		return err
	}
	if applied.Digest != diffID {
		return fmt.Errorf("failed to verify layer: its content is %s, the image's config says %s: %w", applied.Digest, diffID, errdefs.ErrDataLoss)
	}
	return u.s.labelBlob(ctx, desc.Digest, diffID)
}

// linkTree fills a new snapshot with links to the files of a layer that has the
// same changes, and says so in the value of labelLinked. After an error the
// snapshot is empty.
func (s *Store) linkTree(ctx context.Context, l *Layer, mounts []mount.Mount) (label string, _ error) {
	d, release, err := s.diff(ctx, l)
	if err != nil {
		return "", err
	}
	defer release()
	from, ok := d.changes()
	if !ok {
		return "", errors.New("the snapshotter doesn't keep changes in directories")
	}
	to, ok := writableDir(mounts)
	if !ok {
		return "", errors.New("the new snapshot isn't a directory")
	}
	if err = from.Link(ctx, to); err == nil {
		label, err = linkedLabel(to, l.Name)
	}
	if err == nil && s.store.Host != nil {
		err = syncFilesystem(to)
	}
	if err != nil {
		return "", errors.Join(err, emptyDir(to))
	}
	return label, nil
}

// syncFilesystem writes out what the filesystem of dir has in memory. The files
// of steps are not on disk yet, since they are written without sync, and a
// containerd of the host's knows nothing of that: after a crash of the machine it
// would take the snapshot for whole.
func syncFilesystem(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}

// emptyDir removes what is in a directory.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// labelBlob writes down what a blob's verified diff ID is.
func (s *Store) labelBlob(ctx context.Context, blob, diffID digest.Digest) error {
	info := content.Info{Digest: blob, Labels: map[string]string{labels.LabelUncompressed: diffID.String()}}
	_, err := s.store.Content.Update(ctx, info, "labels."+labels.LabelUncompressed)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("label the blob: %w", err)
	}
	return nil
}
