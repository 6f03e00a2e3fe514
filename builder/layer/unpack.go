package layer

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
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
	// Tree, where it isn't nil, is what the blobs were made of. Where the
	// snapshotter allows it, the layers share its files instead of being
	// unpacked.
	Tree *Layer
	// Fetch, where it isn't nil, brings a layer's blob into the content store;
	// it is only called for layers that have to be unpacked, and may be called
	// for several at once.
	Fetch func(ctx context.Context, layer ocispec.Descriptor) error
}

// maxLayers is what overlayfs can stack.
const maxLayers = 500

// Unpack makes layers of an image's blobs, named by their chain IDs. A snapshot
// that has such a name already is used as it lies, whoever made it. Layers that
// a lazy snapshotter shows have other names, unless Tree is given: then it is the
// caller who vouches for the chain IDs. The layers are added to the lease that ctx
// carries. Unpacks of the same layers share the work. An image without layers is
// a nil *Layer.
func (s *Store) Unpack(ctx context.Context, img Image, progress event.Progress) (*Layer, error) {
	if err := img.check(); err != nil {
		return nil, err
	}
	ctx = s.store.Context(ctx)
	names := img.names()
	have, top, err := s.haveChain(ctx, img, names)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	u := unpacking{s: s, img: img, names: names, tree: img.Tree.Chain(), progress: progress, fetches: fetches{img: img}}
	defer u.fetches.wg.Wait()
	defer cancel()
	for i := have; i < len(img.Layers); i++ {
		if top, err = u.layer(ctx, i, top); err != nil {
			return nil, fmt.Errorf("unpack layer %s: %w", img.Layers[i].Digest, noSpace(err))
		}
	}
	return s.openChain(ctx, img, top)
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
	if img.Tree != nil && len(img.Tree.Chain()) != n {
		return bad("the tree doesn't match the %d layers", n)
	}
	if img.Created != nil && len(img.Created) != n || img.Description != nil && len(img.Description) != n {
		return bad("descriptions don't match the %d layers", n)
	}
	return nil
}

// haveChain returns how many of the lowest layers exist, and the name of the top
// one, and keeps them.
func (s *Store) haveChain(ctx context.Context, img Image, n names) (int, string, error) {
	for i := len(img.Layers) - 1; i >= 0; i-- {
		name, err := s.have(ctx, img, n, i)
		if name != "" || err != nil {
			return i + 1, name, err
		}
	}
	return 0, "", nil
}

// have looks for layer i, and keeps it. It returns its name, "" if it isn't there.
func (s *Store) have(ctx context.Context, img Image, n names, i int) (string, error) {
	found, err := s.adopt(ctx, n.chain[i])
	if found && err == nil && img.Tree == nil {
		found, err = s.trusted(ctx, img, i, n.chain[i])
	}
	if found || err != nil {
		return n.chain[i], err
	}
	if img.Tree == nil {
		if found, err = s.adopt(ctx, n.blobs[i]); found || err != nil {
			return n.blobs[i], err
		}
	}
	return "", nil
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

// snapshotLabels are those that containerd's own unpacking sets, and ours.
func (img Image) snapshotLabels(i int, name string) (map[string]string, error) {
	labels, err := blobLabels(sourceBlob, *img.blob(i))
	if err != nil {
		return nil, err
	}
	maps.Copy(labels, snapshots.FilterInheritedLabels(img.Layers[i].Annotations))
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
	return labels, nil
}

// blob returns the blob of layer i.
func (img Image) blob(i int) *Blob {
	b := &Blob{Desc: img.Layers[i], DiffID: img.DiffIDs[i]}
	b.Desc.Annotations = kept(b.Desc.Annotations)
	b.Desc.MediaType = ociMediaType(b.Desc.MediaType)
	return b
}

// openChain opens the finished chain and makes its layers remember what they
// came from.
func (s *Store) openChain(ctx context.Context, img Image, name string) (*Layer, error) {
	if name == "" {
		return nil, nil
	}
	top, err := s.Open(ctx, name)
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
		if known != nil && known.says(*l.source) {
			continue
		}
		if err := s.recordBlob(ctx, l.Name, sourceBlob, *l.source); err != nil {
			return nil, err
		}
	}
	return top, nil
}

// says tells whether what is written down of a blob is what an image says of it. An
// image that doesn't say where the blob came from has nothing to say.
func (b Blob) says(now Blob) bool {
	if b.Desc.Digest != now.Desc.Digest || b.Absent != now.Absent {
		return false
	}
	return now.Desc.Annotations[AnnotationSource] == "" || maps.Equal(b.Desc.Annotations, now.Desc.Annotations)
}
