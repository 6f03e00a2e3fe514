package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/event"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// transferAttempts is how often a transfer that broke off is taken up again.
const transferAttempts = 5

// errBroken marks transfers that broke off.
var errBroken = errors.New("the transfer broke off")

// transfer fetches a blob. What an earlier transfer has left is used; if the
// whole turns out wrong then, all of it is fetched again.
func (b *blobs) transfer(ctx context.Context, from remote, desc ocispec.Descriptor, progress event.Progress) error {
	release, err := from.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	item := progress.Begin(desc.Digest.String())
	defer item.Done()
	d := download{from, desc, item}
	resumed, err := b.write(ctx, d)
	if resumed && errdefs.IsFailedPrecondition(err) {
		_, err = b.write(ctx, d)
	}
	return err
}

// download is a blob on its way.
type download struct {
	from remote
	desc ocispec.Descriptor
	item *event.Item
}

// write fetches a blob into the store, where it is checked. What is wrong is
// not kept.
func (b *blobs) write(ctx context.Context, d download) (resumed bool, err error) {
	desc := d.desc
	ref := remotes.MakeRefKey(ctx, desc)
	w, err := content.OpenWriter(ctx, b.store.Content, content.WithRef(ref), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store blob %s: %w", desc.Digest, err)
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return false, fmt.Errorf("store blob %s: %w", desc.Digest, err)
	}
	if err := d.fill(ctx, w, st.Offset); err != nil {
		return false, err
	}
	err = w.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(d.from.labels(nil)))
	if err == nil || errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if !errdefs.IsFailedPrecondition(err) {
		return false, fmt.Errorf("store blob %s: %w", desc.Digest, err)
	}
	w.Close()
	if aerr := b.store.Content.Abort(ctx, ref); aerr != nil && !errdefs.IsNotFound(aerr) {
		return false, errors.Join(err, aerr)
	}
	return st.Offset > 0, fmt.Errorf("blob %s is not what its digest says: %w", desc.Digest, err)
}

// fill copies the rest of a blob, in several attempts if need be. An attempt
// that has brought something doesn't count.
func (d download) fill(ctx context.Context, w io.Writer, offset int64) error {
	for failed := 0; offset < d.desc.Size; {
		n, err := d.copyFrom(ctx, w, offset)
		offset += n
		if err == nil {
			break
		}
		if n > 0 {
			failed = 0
		}
		failed++
		if ctx.Err() != nil || failed >= transferAttempts || !errors.Is(err, errBroken) {
			return fmt.Errorf("blob %s: %w", d.desc.Digest, err)
		}
		if !sleep(ctx, failed) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// copyFrom copies from the offset to the end and says how much that was.
func (d download) copyFrom(ctx context.Context, w io.Writer, offset int64) (copied int64, err error) {
	size := d.desc.Size
	rc, err := d.from.open(ctx, d.desc, offset)
	if err != nil {
		return 0, err
	}
	defer rc.Close()
	buf := make([]byte, 256<<10)
	for offset+copied < size {
		n, rerr := rc.Read(buf[:min(int64(len(buf)), size-offset-copied)])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return copied, fmt.Errorf("store: %w", err)
			}
			copied += int64(n)
			d.item.Set(offset+copied, size)
		}
		switch {
		case ctx.Err() != nil:
			return copied, context.Cause(ctx)
		case rerr != nil && offset+copied < size:
			return copied, fmt.Errorf("%w after %d of %d bytes: %w", errBroken, offset+copied, size, rerr)
		}
	}
	return copied, nil
}

func sleep(ctx context.Context, attempt int) bool {
	t := time.NewTimer(100 * time.Millisecond << attempt)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
