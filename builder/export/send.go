package export

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
)

// writeSize is how much of a stream goes to the client at once.
const writeSize = 1 << 20

// sendFile gives the client one file. A client that has it already is content.
func sendFile(ctx context.Context, client *session.Client, to session.Output, progress event.Progress, write func(io.Writer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // what wasn't sent completely is aborted
	file, err := client.SendFile(ctx, to)
	if err != nil {
		return err
	}
	item := progress.Begin("sending tarball")
	defer item.Done()
	w := bufio.NewWriterSize(&meter{w: file, item: item}, writeSize)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = file.Close()
	}
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// meter reports how much was written.
type meter struct {
	w    io.Writer
	item *event.Item
	n    int64
}

func (m *meter) Write(b []byte) (int, error) {
	n, err := m.w.Write(b)
	m.n += int64(n)
	m.item.Set(m.n, 0)
	return n, err
}

// copyParallel is how many blobs go to the client at a time.
const copyParallel = 4

// sendBlobs copies the image into the client's content store: each document
// after what it refers to.
func (x *archiveExporter) sendBlobs(ctx context.Context, job schedule.Job, client *session.Client, img *built) error {
	item := job.Progress.Begin("sending content")
	defer item.Done()
	to, err := client.Content("export")
	if err != nil {
		return err
	}
	eg, blobCtx := errgroup.WithContext(ctx)
	eg.SetLimit(copyParallel)
	for _, desc := range img.blobs() {
		eg.Go(func() error { return copyBlob(blobCtx, to, x.cfg.Store.Content, desc) })
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	for _, desc := range img.manifests() {
		if err := copyBlob(ctx, to, x.cfg.Store.Content, desc); err != nil {
			return err
		}
	}
	return nil
}

func copyBlob(ctx context.Context, to content.Ingester, from content.Provider, desc ocispec.Descriptor) error {
	blob, err := from.ReaderAt(ctx, desc)
	if err != nil {
		return err
	}
	defer blob.Close()
	r := io.NewSectionReader(blob, 0, desc.Size)
	err = content.WriteBlob(ctx, to, "export-"+desc.Digest.String(), r, desc)
	if errors.Is(err, errdefs.ErrAlreadyExists) {
		return nil
	}
	return err
}
