package layer

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/layer/changes"
	"github.com/kiln-build/kiln/builder/layer/pack"
)

// blobLease bounds how long a blob stays that was made, but not written down
// because the process was killed.
const blobLease = time.Hour

// tarFunc writes a layer's tar.
type tarFunc func(ctx context.Context, w io.Writer) error

// makeBlob makes a blob of the layer and writes it down. source is the blob
// that the layer came from, nil for none: as long as it is there it is what is
// compressed, because only that surely gives its diff ID again.
func (s *Store) makeBlob(ctx context.Context, l *Layer, r recipe, source *Blob) (_ Blob, err error) {
	lease, err := s.store.Leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(blobLease), leases.WithLabel(LabelStore, s.id))
	if err != nil {
		return Blob{}, fmt.Errorf("lease for a blob: %w", err)
	}
	ctx = leases.WithLease(ctx, lease.ID)
	defer func() {
		ctx, cancel := s.cleanupContext(ctx)
		defer cancel()
		if derr := s.store.Leases.Delete(ctx, lease); derr != nil && !errdefs.IsNotFound(derr) {
			err = errors.Join(err, fmt.Errorf("lease for a blob: %w", derr))
		}
	}()
	var b Blob
	if source != nil && !source.Absent {
		b, err = s.writeBlob(ctx, r, s.unpacked(source.Desc))
		if err == nil && r.epoch == nil && r.Type != EStargz && b.DiffID != source.DiffID {
			err = fmt.Errorf("blob %s decompresses to %s, not to %s: %w", source.Desc.Digest, b.DiffID, source.DiffID, errdefs.ErrDataLoss)
		}
	} else {
		b, err = s.writeDiff(ctx, l, r)
	}
	if err != nil {
		return Blob{}, err
	}
	return b, s.recordBlob(ctx, l.Name, r.name(), b)
}

// unpacked decompresses a blob in the content store.
func (s *Store) unpacked(desc ocispec.Descriptor) tarFunc {
	return func(ctx context.Context, w io.Writer) error {
		ra, err := s.store.Content.ReaderAt(ctx, desc)
		if err != nil {
			return err
		}
		defer ra.Close()
		r, err := compression.DecompressStream(bufio.NewReaderSize(content.NewReader(ra), 1<<20))
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(w, r)
		return err
	}
}

// writeDiff makes a blob of what the layer changes in its parent.
func (s *Store) writeDiff(ctx context.Context, l *Layer, r recipe) (Blob, error) {
	d, release, err := s.diff(ctx, l)
	if err != nil {
		return Blob{}, err
	}
	defer release()
	if u, ok := d.changes(); ok {
		b, err := s.writeBlob(ctx, r, u.Write)
		if !errors.Is(err, changes.ErrIncomplete) {
			return b, err
		}
	}
	return s.writeBlob(ctx, r, func(ctx context.Context, w io.Writer) error {
		return changes.Compare(ctx, w, d.lower.dir, d.upper.dir)
	})
}

// writeBlob writes a tar to the content store, compressed.
func (s *Store) writeBlob(ctx context.Context, r recipe, tar tarFunc) (_ Blob, err error) {
	ref := "kiln-" + strings.ToLower(rand.Text())
	w, err := content.OpenWriter(ctx, s.store.Content, content.WithRef(ref))
	if err != nil {
		return Blob{}, fmt.Errorf("write a blob: %w", err)
	}
	committed := false
	defer func() {
		w.Close()
		if !committed {
			ctx, cancel := s.cleanupContext(ctx)
			defer cancel()
			if aerr := s.store.Content.Abort(ctx, ref); aerr != nil && !errdefs.IsNotFound(aerr) {
				err = errors.Join(err, fmt.Errorf("remove an unfinished blob: %w", aerr))
			}
		}
	}()
	buffered := bufio.NewWriterSize(w, 1<<20)
	tar = r.tar(tar)
	packed, err := pack.Pack(ctx, buffered, r.Options, func(w io.Writer) error { return tar(ctx, w) })
	if err == nil {
		err = buffered.Flush()
	}
	if err != nil {
		return Blob{}, err
	}
	dgst := w.Digest()
	if r.Type == pack.Uncompressed {
		packed.DiffID = dgst
	}
	label := map[string]string{labels.LabelUncompressed: packed.DiffID.String()}
	if err := w.Commit(ctx, 0, dgst, content.WithLabels(label)); err != nil && !errdefs.IsAlreadyExists(err) {
		return Blob{}, fmt.Errorf("write blob %s: %w", dgst, err)
	}
	committed = true
	if err := s.labelBlob(ctx, dgst, packed.DiffID); err != nil {
		return Blob{}, err
	}
	info, err := s.store.Content.Info(ctx, dgst)
	if err != nil {
		return Blob{}, fmt.Errorf("write blob %s: %w", dgst, err)
	}
	return Blob{
		Desc: ocispec.Descriptor{
			MediaType: r.Type.MediaType(), Digest: dgst, Size: info.Size, Annotations: r.annotations(packed),
		},
		DiffID: packed.DiffID,
	}, nil
}
