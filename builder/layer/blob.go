package layer

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/layer/pack"
)

// Type is a form of layer blobs; [pack.Parse] gives it from its name.
type Type = pack.Type

// The types.
const (
	Uncompressed = pack.Uncompressed
	Gzip         = pack.Gzip
	Zstd         = pack.Zstd
	EStargz      = pack.EStargz
)

// Compression says in which form blobs are wanted. The zero value is gzip.
type Compression struct {
	Type Type
	// Level is from 0, as the type has it; nil is the type's default.
	Level *int
	// Force: layers that came from an image as blobs of another type are
	// compressed anew, else they stay what they are.
	Force bool
	// Epoch, if not nil, is the latest time that files may have in the blobs of
	// the layers above the lowest Bases.
	Epoch *time.Time
	Bases int
}

func (c Compression) options() pack.Options {
	o := pack.Options{Type: c.Type, Level: c.Level}
	if o.Type == "" {
		o.Type = Gzip
	}
	return o
}

// Blob is a layer as images have it.
type Blob struct {
	// Desc has one of OCI's media types.
	Desc ocispec.Descriptor
	// DiffID is the digest of what the blob decompresses to.
	DiffID digest.Digest
	// Absent: the content store doesn't hold the blob. It is a layer of an
	// image that a lazy snapshotter shows, or that was unpacked by somebody who
	// then dropped the blob, or that is [Remote].
	Absent bool
}

// Remote tells whether it is known from where a blob that is absent can be had.
func (b Blob) Remote() bool { return b.Absent && b.Desc.Annotations[AnnotationSource] != "" }

// Lazy tells whether the blob may be shown without being fetched.
func (b Blob) Lazy() bool { return Lazy(b.Desc) }

// Blobs returns the layers' blobs, lowest first. Those that don't exist yet are
// made, several at a time; the same layer and compression always make the same
// bytes. Blobs live as long as the layers' snapshots.
func (s *Store) Blobs(ctx context.Context, l *Layer, c Compression, progress event.Progress) ([]Blob, error) {
	if err := c.options().Check(); err != nil {
		return nil, err
	}
	chain := l.Chain()
	blobs := make([]Blob, len(chain))
	g, ctx := errgroup.WithContext(s.store.Context(ctx))
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range chain {
		c := c
		if i < c.Bases {
			c.Epoch = nil
		}
		g.Go(func() (err error) {
			if blobs[i], err = s.blob(ctx, l, c, progress); err != nil {
				return fmt.Errorf("blob of layer %s: %w", l.Name, noSpace(err))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return blobs, nil
}

// blob returns the blob of one layer.
func (s *Store) blob(ctx context.Context, l *Layer, c Compression, progress event.Progress) (Blob, error) {
	r := recipe{c.options(), c.Epoch}
	if l.remote {
		if c.Force || c.Epoch != nil {
			return Blob{}, fmt.Errorf("its files are not here: %w", errdefs.ErrFailedPrecondition)
		}
		return *l.source, nil
	}
	unlock, err := s.packing.lock(ctx, l.Name+" "+r.name())
	if err != nil {
		return Blob{}, err
	}
	defer unlock()
	info, err := s.store.Snapshots.Stat(ctx, l.Name)
	if err != nil {
		return Blob{}, err
	}
	source, err := s.source(ctx, l, info.Labels)
	if err != nil {
		return Blob{}, err
	}
	if source != nil && r.epoch == nil {
		is, err := s.isType(ctx, *source, r.Type)
		if is || !c.Force || err != nil {
			return *source, err
		}
	}
	old := readBlob(info.Labels, r.name())
	if old != nil && r.made(*old) {
		if absent, err := s.absent(ctx, old.Desc.Digest); !absent || err != nil {
			return *old, err
		}
	}
	item := progress.Begin("compressing layer " + l.Name)
	defer item.Done()
	return s.makeBlob(ctx, l, r, source)
}

// source is the blob that a layer came from, nil for none.
func (s *Store) source(ctx context.Context, l *Layer, labels map[string]string) (*Blob, error) {
	from := l.source
	if from == nil {
		from = readBlob(labels, sourceBlob)
	}
	if from == nil {
		return nil, nil
	}
	b := *from
	var err error
	b.Absent, err = s.absent(ctx, b.Desc.Digest)
	return &b, err
}

// absent tells whether the content store lacks a blob.
func (s *Store) absent(ctx context.Context, blob digest.Digest) (bool, error) {
	_, err := s.store.Content.Info(ctx, blob)
	if errdefs.IsNotFound(err) {
		return true, nil
	}
	return false, err
}

// isType tells whether an image's blob is of the type.
func (s *Store) isType(ctx context.Context, b Blob, t Type) (bool, error) {
	lazy := b.Desc.Annotations[estargz.TOCJSONDigestAnnotation] != ""
	switch b.Desc.MediaType {
	case ocispec.MediaTypeImageLayer:
		return t == Uncompressed, nil
	case ocispec.MediaTypeImageLayerZstd:
		return t == Zstd, nil
	case ocispec.MediaTypeImageLayerGzip:
		if t != EStargz || lazy || b.Absent {
			return t == Gzip && !lazy || t == EStargz && lazy, nil
		}
		ra, err := s.store.Content.ReaderAt(ctx, b.Desc)
		if err != nil {
			return false, err
		}
		defer ra.Close()
		_, _, err = estargz.OpenFooter(io.NewSectionReader(ra, 0, ra.Size()))
		return err == nil, nil
	}
	return false, nil
}

// ociMediaType turns Docker's media types of layers into OCI's.
func ociMediaType(t string) string {
	const docker = "application/vnd.docker.image.rootfs."
	rest, ok := strings.CutPrefix(t, docker)
	if !ok {
		return t
	}
	plain, compression, _ := strings.Cut(rest, ".tar")
	var oci string
	switch plain {
	case "diff":
		oci = ocispec.MediaTypeImageLayer
	case "foreign.diff":
		oci = ocispec.MediaTypeImageLayerNonDistributable
	default:
		return t
	}
	if compression == "" {
		return oci
	}
	return oci + "+" + strings.TrimPrefix(compression, ".")
}
