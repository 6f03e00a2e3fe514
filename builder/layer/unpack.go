package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/event"
)

// Image is what Unpack makes layers of, lowest first.
type Image struct {
	// Layers are the blobs. Annotations whose keys begin with
	// "containerd.io/snapshot/" become labels of the snapshots; lazy
	// snapshotters want them.
	Layers []ocispec.Descriptor
	// DiffIDs are the digests of the uncompressed layers, one for each.
	DiffIDs []digest.Digest
	// Created and Description, where given, describe the layers; as many as
	// there are layers.
	Created     []time.Time
	Description []string
	// Fetch, where it isn't nil, brings a layer's blob into the content store;
	// it is only called for layers that have to be unpacked, and may be called
	// for several at once.
	Fetch func(ctx context.Context, layer ocispec.Descriptor) error
}

// maxLayers is what overlayfs can stack.
const maxLayers = 500

// fetchAhead is how many layers are fetched at the same time.
const fetchAhead = 4

// Unpack makes layers of an image's blobs, named by their chain IDs. A snapshot
// that has such a name already is used as it lies, whoever made it. The layers
// are added to the lease that ctx carries. Unpacks of the same layers share the
// work. An image without layers is a nil *Layer.
func (s *Store) Unpack(ctx context.Context, img Image, progress event.Progress) (*Layer, error) {
	if err := img.check(); err != nil {
		return nil, err
	}
	ctx = s.store.Context(ctx)
	chain := identity.ChainIDs(append([]digest.Digest(nil), img.DiffIDs...))
	have, err := s.haveChain(ctx, chain)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	fetches := &fetches{img: img}
	defer fetches.wg.Wait()
	defer cancel()
	for i := have; i < len(chain); i++ {
		if err := s.unpackLayer(ctx, img, i, chain, fetches, progress); err != nil {
			return nil, fmt.Errorf("unpack layer %s: %w", img.Layers[i].Digest, noSpace(err))
		}
	}
	return s.openChain(ctx, img, chain)
}

func (img Image) check() error {
	n := len(img.Layers)
	bad := func(format string, args ...any) error {
		return fmt.Errorf("unpack image: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	if len(img.DiffIDs) != n {
		return bad("%d layers, but %d diff IDs in the config", n, len(img.DiffIDs))
	}
	if n > maxLayers {
		return bad("%d layers, more than the %d that can be mounted", n, maxLayers)
	}
	for i := range n {
		if err := img.Layers[i].Digest.Validate(); err != nil {
			return bad("digest of layer %d: %v", i, err)
		}
		if err := img.DiffIDs[i].Validate(); err != nil {
			return bad("diff ID of layer %d: %v", i, err)
		}
	}
	if img.Created != nil && len(img.Created) != n || img.Description != nil && len(img.Description) != n {
		return bad("descriptions don't match the %d layers", n)
	}
	return nil
}

// haveChain returns how many of the lowest layers exist, and keeps them.
func (s *Store) haveChain(ctx context.Context, chain []digest.Digest) (int, error) {
	for n := len(chain); n > 0; n-- {
		found, err := s.adopt(ctx, chain[n-1].String())
		if found || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// adopt adds a committed snapshot, if it exists, to the lease that ctx carries.
func (s *Store) adopt(ctx context.Context, name string) (bool, error) {
	if info, err := s.store.Snapshots.Stat(ctx, name); errdefs.IsNotFound(err) || err == nil && info.Kind != snapshots.KindCommitted {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look for layer %s: %w", name, err)
	}
	lease, ok := leases.FromContext(ctx)
	if !ok {
		return true, nil
	}
	r := leases.Resource{ID: name, Type: "snapshots/" + s.store.Snapshotter}
	if err := s.store.Leases.AddResource(ctx, leases.Lease{ID: lease}, r); err != nil {
		return false, fmt.Errorf("keep layer %s: %w", name, err)
	}
	// It may have been collected before it was on the lease.
	_, err := s.store.Snapshots.Stat(ctx, name)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// unpackLayer makes layer i, whose parent exists.
func (s *Store) unpackLayer(ctx context.Context, img Image, i int, chain []digest.Digest, f *fetches, progress event.Progress) error {
	name := chain[i].String()
	unlock, err := s.unpacking.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if found, err := s.adopt(ctx, name); found || err != nil {
		return err
	}
	parent := ""
	if i > 0 {
		parent = chain[i-1].String()
	}
	labels := img.snapshotLabels(i, name)
	key := fmt.Sprintf(snapshots.UnpackKeyFormat, "kiln-"+strings.ToLower(rand.Text()), name)
	labels[labelOwner] = s.id
	mounts, err := s.store.Snapshots.Prepare(ctx, key, parent, snapshots.WithLabels(labels))
	if errdefs.IsAlreadyExists(err) {
		return nil // a lazy snapshotter has the layer, or somebody was faster
	}
	if err != nil {
		return err
	}
	delete(labels, labelOwner)
	abort := func(err error) error {
		ctx, cancel := s.cleanupContext(ctx)
		defer cancel()
		return errors.Join(err, s.store.Snapshots.Remove(ctx, key))
	}
	if err := f.fetched(ctx, i); err != nil {
		return abort(err)
	}
	item := progress.Begin("extracting " + img.Layers[i].Digest.String())
	defer item.Done()
	applied, err := s.store.Applier.Apply(ctx, img.Layers[i], mounts, diff.WithProgress(func(d ocispec.Descriptor, n int64) {
		item.Set(n, d.Size)
	}))
	if err != nil {
		return abort(err)
	}
	if applied.Digest != img.DiffIDs[i] {
		return abort(fmt.Errorf("its content is %s, the image's config says %s: %w", applied.Digest, img.DiffIDs[i], errdefs.ErrFailedPrecondition))
	}
	source, err := blobLabels(sourceBlob, *img.blob(i))
	if err != nil {
		return abort(err)
	}
	maps.Copy(labels, source)
	if err := s.store.Snapshots.Commit(ctx, name, key, snapshots.WithLabels(labels)); errdefs.IsAlreadyExists(err) {
		return abort(nil)
	} else if err != nil {
		return abort(err)
	}
	return s.labelBlob(ctx, img.Layers[i].Digest, img.DiffIDs[i])
}

// snapshotLabels are those that containerd's own unpacking sets, and the
// description.
func (img Image) snapshotLabels(i int, name string) map[string]string {
	labels := snapshots.FilterInheritedLabels(img.Layers[i].Annotations)
	if labels == nil {
		labels = map[string]string{}
	}
	// Whose files these are isn't for the image to say.
	delete(labels, snapshots.LabelSnapshotUIDMapping)
	delete(labels, snapshots.LabelSnapshotGIDMapping)
	labels[snapshots.LabelSnapshotRef] = name
	if img.Created != nil {
		labels[labelCreated] = img.Created[i].UTC().Format(time.RFC3339Nano)
	}
	if img.Description != nil {
		labels[labelDescription] = cut(img.Description[i], maxDescription)
	}
	return labels
}

// blob returns the blob of layer i.
func (img Image) blob(i int) *Blob {
	b := &Blob{Desc: img.Layers[i], DiffID: img.DiffIDs[i]}
	b.Desc.MediaType = ociMediaType(b.Desc.MediaType)
	return b
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

// openChain opens the finished chain and makes its layers remember what they
// came from.
func (s *Store) openChain(ctx context.Context, img Image, chain []digest.Digest) (*Layer, error) {
	if len(chain) == 0 {
		return nil, nil
	}
	top, err := s.Open(ctx, chain[len(chain)-1].String())
	if err != nil {
		return nil, err
	}
	lease, _ := leases.FromContext(ctx)
	for i, l := range top.Chain() {
		l.Lease = lease
		if img.Created != nil {
			l.Created = img.Created[i]
		}
		if img.Description != nil {
			l.Description = img.Description[i]
		}
		known := l.source
		l.source = img.blob(i)
		if l.source.Absent, err = s.absent(ctx, l.source.Desc.Digest); err != nil {
			return nil, err
		}
		if known != nil && known.Desc.Digest == l.source.Desc.Digest && known.Absent == l.source.Absent {
			continue
		}
		if err := s.recordBlob(ctx, l.Name, sourceBlob, *l.source); err != nil {
			return nil, err
		}
	}
	return top, nil
}

// fetches are the downloads of an image's layers, which run ahead of the
// unpacking.
type fetches struct {
	img  Image
	done []chan error // of each layer, once started
	wg   sync.WaitGroup
}

// fetched waits for layer i; to be called once, in the layers' order. The first
// call starts the downloads of that layer and those above it: not earlier,
// because a lazy snapshotter may have what lies below.
func (f *fetches) fetched(ctx context.Context, i int) error {
	if f.img.Fetch == nil {
		return nil
	}
	if f.done == nil {
		f.start(ctx, i)
	}
	select {
	case err := <-f.done[i]:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *fetches) start(ctx context.Context, from int) {
	f.done = make([]chan error, len(f.img.Layers))
	for i := from; i < len(f.done); i++ {
		f.done[i] = make(chan error, 1)
	}
	slots := make(chan struct{}, fetchAhead)
	f.wg.Go(func() {
		for i := from; i < len(f.done); i++ {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			f.wg.Go(func() {
				defer func() { <-slots }()
				f.done[i] <- f.img.Fetch(ctx, f.img.Layers[i])
			})
		}
	})
}
