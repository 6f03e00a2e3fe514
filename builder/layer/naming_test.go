package layer

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/event"
)

// lazySnapshots shows the layers that have a table of contents, or are of nydus's:
// what the annotation says is the content of their only file.
type lazySnapshots struct {
	snapshots.Snapshotter
	t       *testing.T
	decline bool
}

func (l *lazySnapshots) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	var info snapshots.Info
	for _, o := range opts {
		if err := o(&info); err != nil {
			return nil, err
		}
	}
	toc, target := cmp.Or(info.Labels[estargz.TOCJSONDigestAnnotation], info.Labels[nydusBlob]), info.Labels[snapshots.LabelSnapshotRef]
	mounts, err := l.Snapshotter.Prepare(ctx, key, parent, opts...)
	if err != nil || toc == "" || target == "" || l.decline {
		return mounts, err
	}
	dir := l.t.TempDir()
	if err := mountAll(mounts, dir); err != nil {
		return nil, err
	}
	write(l.t, filepath.Join(dir, "file"), toc)
	if err := unmountAll(dir); err != nil {
		return nil, err
	}
	if err := l.Commit(ctx, target, key, snapshots.WithLabels(info.Labels)); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("snapshot %s: %w", target, errdefs.ErrAlreadyExists)
}

// lazyKinds are the annotations that layers are lazy by.
var lazyKinds = []string{estargz.TOCJSONDigestAnnotation, nydusBlob}

func lazyLayer(kind, text string) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(text), Size: 1,
		Annotations: map[string]string{kind: text, "containerd.io/snapshot/cri.layer-digest": digest.FromString(text).String()},
	}
}

func contentOf(t *testing.T, ctx context.Context, s *Store, l *Layer, name string) string {
	t.Helper()
	dir, release, err := s.Mount(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	return read(t, filepath.Join(dir, name))
}

// TestLies: an image that claims another one's diff IDs for layers that nobody
// can check doesn't become the other one.
func TestLies(t *testing.T) {
	t.Parallel()
	for _, kind := range lazyKinds {
		t.Run(filepath.Base(kind), func(t *testing.T) { testLies(t, kind) })
	}
}

func testLies(t *testing.T, kind string) {
	ctx, s := open(t)
	s.store.Snapshots = &lazySnapshots{Snapshotter: s.store.Snapshots, t: t}
	honest, id := blob(t, ctx, s.store, file{"file", "honest"})
	above, aboveID := blob(t, ctx, s.store, file{"above", "1"})
	good := Image{Layers: []ocispec.Descriptor{honest, above}, DiffIDs: []digest.Digest{id, aboveID}}
	unpack := func(img Image) *Layer {
		l, err := s.Unpack(ctx, img, event.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	evil := unpack(Image{Layers: []ocispec.Descriptor{lazyLayer(kind, "evil"), above}, DiffIDs: good.DiffIDs})
	if got := contentOf(t, ctx, s, evil, "file"); got != "evil" {
		t.Errorf("the lazy image holds %q", got)
	}
	l := unpack(good)
	if got := contentOf(t, ctx, s, l, "file"); got != "honest" || l.Name != identity.ChainID(good.DiffIDs).String() {
		t.Errorf("the honest image, called %s, holds %q", l.Name, got)
	}
	if again := unpack(Image{Layers: []ocispec.Descriptor{lazyLayer(kind, "evil"), above}, DiffIDs: good.DiffIDs}); again.Name != l.Name {
		t.Errorf("what was checked isn't used: %s", again.Name)
	}
}

// TestOthersLies is the same with a snapshot that somebody else pulled lazily, and
// called by its chain ID as containerd's clients do.
func TestOthersLies(t *testing.T) {
	t.Parallel()
	for _, kind := range lazyKinds {
		t.Run(filepath.Base(kind), func(t *testing.T) { testOthersLies(t, kind) })
	}
}

func testOthersLies(t *testing.T, kind string) {
	ctx, s := open(t)
	lazy := &lazySnapshots{Snapshotter: s.store.Snapshots, t: t}
	s.store.Snapshots = lazy
	honest, id := blob(t, ctx, s.store, file{"file", "honest"})
	labels := maps.Clone(lazyLayer(kind, "evil").Annotations)
	labels[snapshots.LabelSnapshotRef] = id.String()
	if _, err := lazy.Prepare(s.store.Context(ctx), "theirs", "", snapshots.WithLabels(labels)); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	lazy.decline = true
	for range 2 {
		l, err := s.Unpack(ctx, Image{Layers: []ocispec.Descriptor{honest}, DiffIDs: []digest.Digest{id}}, event.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		if got := contentOf(t, ctx, s, l, "file"); got != "honest" || l.Name == id.String() {
			t.Errorf("the honest image, called %s, holds %q", l.Name, got)
		}
	}
	l, err := s.Unpack(ctx, Image{Layers: []ocispec.Descriptor{lazyLayer(kind, "evil")}, DiffIDs: []digest.Digest{id}}, event.Progress{})
	if err != nil || l.Name != id.String() {
		t.Errorf("the image that they pulled isn't used as it lies: %v, %v", l, err)
	}
}
