package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// ingest is a blob that is being written.
type ingest struct {
	blobs *blobs

	mu     sync.Mutex
	writer *writer // nil when closed, committed or aborted
	file   *os.File
	hash   digest.Digester
	status content.Status // Expected isn't used
}

// writer is the right to write an ingest until it is closed.
type writer struct{ *ingest }

// open gives the ingest to a new writer; total is the size that it knows of,
// 0 for none.
func (i *ingest) open(total int64) (*writer, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.writer != nil:
		return nil, fmt.Errorf("ref %s is being written since %s: %w", i.status.Ref, i.status.StartedAt.Format(time.RFC3339), errdefs.ErrUnavailable)
	case total > 0 && i.status.Total > 0 && total != i.status.Total:
		return nil, fmt.Errorf("ref %s has %d bytes, not %d: %w", i.status.Ref, i.status.Total, total, errdefs.ErrInvalidArgument)
	}
	i.writer = &writer{i}
	return i.writer, nil
}

var errClosed = fmt.Errorf("the writer is closed: %w", errdefs.ErrFailedPrecondition)

// check needs mu.
func (w *writer) check() error {
	if w.ingest.writer != w {
		return errClosed
	}
	return nil
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.check(); err != nil {
		return 0, err
	}
	n, err := w.file.Write(p)
	w.hash.Hash().Write(p[:n])
	w.status.Offset += int64(n)
	w.status.UpdatedAt = time.Now()
	return n, err
}

// Digest returns that of what was written so far.
func (w *writer) Digest() digest.Digest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hash.Digest()
}

func (i *ingest) Status() (content.Status, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.status, nil
}

// Truncate starts again.
func (w *writer) Truncate(size int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.check(); err != nil {
		return err
	}
	if size != 0 {
		return fmt.Errorf("truncate to %d: %w", size, errdefs.ErrNotImplemented)
	}
	if _, err := w.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	w.hash.Hash().Reset()
	w.status.Offset = 0
	return w.file.Truncate(0)
}

// Close leaves what was written to the next writer of the same ref.
func (w *writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.check() == nil {
		w.ingest.writer = nil
	}
	return nil
}

// Commit makes a blob of what was written. The writer is closed, whatever
// happens; a blob that exists removes the ingest too.
func (w *writer) Commit(_ context.Context, size int64, expected digest.Digest, _ ...content.Opt) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.check(); err != nil {
		return err
	}
	w.ingest.writer = nil
	if size > 0 && size != w.status.Offset {
		return fmt.Errorf("unexpected commit size %d, expected %d: %w", w.status.Offset, size, errdefs.ErrFailedPrecondition)
	}
	d, err := w.digestAs(expected)
	if err != nil {
		return err
	}
	if expected != "" && d != expected {
		return fmt.Errorf("unexpected commit digest %s, expected %s: %w", d, expected, errdefs.ErrFailedPrecondition)
	}
	target := w.blobs.blobPath(d)
	err = w.publish(target)
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("content %s: %w", d, errdefs.ErrAlreadyExists)
	} else if err != nil {
		return err
	}
	if w.blobs.forget(w.ingest) {
		w.file.Close()
		os.Remove(w.file.Name())
	}
	return err
}

// digestAs returns the digest in the algorithm of expected, which may have
// become known only now.
func (i *ingest) digestAs(expected digest.Digest) (digest.Digest, error) {
	d := i.hash.Digest()
	if expected == "" || expected.Algorithm() == d.Algorithm() {
		return d, nil
	}
	if err := expected.Validate(); err != nil {
		return "", fmt.Errorf("expected digest %q: %w", expected, errdefs.ErrInvalidArgument)
	}
	return expected.Algorithm().FromReader(io.NewSectionReader(i.file, 0, i.status.Offset))
}

// publish links the data to its place among the blobs, read-only.
func (i *ingest) publish(target string) error {
	if err := i.file.Chmod(0o444); err != nil {
		return err
	}
	err := os.Link(i.file.Name(), target)
	if errors.Is(err, fs.ErrNotExist) { // the first blob of its algorithm
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		err = os.Link(i.file.Name(), target)
	}
	return err
}

// remove gives up an ingest that is off the list.
func (i *ingest) remove() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.writer = nil
	return errors.Join(i.file.Close(), os.Remove(i.file.Name()))
}
