package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"time"

	"github.com/kiln-build/kiln/builder/layer/pack"
)

// annotationEpoch is on blobs whose files are not younger than the time that it
// gives, in seconds since 1970.
const annotationEpoch = "buildkit/rewritten-timestamp"

// recipe says how a layer becomes a blob.
type recipe struct {
	pack.Options
	epoch *time.Time // bounds the times of files; nil: they stay
}

// name is that by which blobs made so are written down. A layer keeps those of
// one epoch only: epochs change more often than layers.
func (r recipe) name() string {
	if r.epoch == nil {
		return r.String()
	}
	return r.String() + "-epoch"
}

// made tells whether a blob that was found by the name was made so.
func (r recipe) made(b Blob) bool {
	return r.epoch == nil || b.Desc.Annotations[annotationEpoch] == r.seconds()
}

func (r recipe) seconds() string { return strconv.FormatInt(r.epoch.Unix(), 10) }

// annotations are those of a blob that was made so.
func (r recipe) annotations(p pack.Packed) map[string]string {
	if r.epoch == nil {
		return p.Annotations
	}
	all := map[string]string{annotationEpoch: r.seconds()}
	maps.Copy(all, p.Annotations)
	return all
}

// tar is what is packed in place of t.
func (r recipe) tar(t tarFunc) tarFunc {
	if r.epoch == nil {
		return t
	}
	return func(ctx context.Context, w io.Writer) error {
		pr, pw := io.Pipe()
		written := make(chan error, 1)
		go func() {
			err := t(ctx, pw)
			pw.CloseWithError(err)
			written <- err
		}()
		err := boundTimes(w, pr, *r.epoch)
		pr.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		if werr := <-written; werr != nil && err == nil {
			err = werr
		}
		return err
	}
}

// boundTimes copies a tar; times after the epoch become the epoch.
func boundTimes(w io.Writer, r io.Reader, epoch time.Time) error {
	from, to := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := from.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("bound the times of files: %w", err)
		}
		for _, t := range []*time.Time{&h.ModTime, &h.AccessTime, &h.ChangeTime} {
			if t.After(epoch) {
				*t = epoch
			}
		}
		if h.Format == tar.FormatUSTAR {
			h.Format = tar.FormatPAX // the same bytes, unless the epoch is out of its range
		}
		if h.Typeflag == tar.TypeGNUSparse {
			h.Typeflag = tar.TypeReg // its holes are read as zeros
		}
		if err := to.WriteHeader(h); err != nil {
			return fmt.Errorf("bound the time of %s: %w", h.Name, err)
		}
		if _, err := io.Copy(to, from); err != nil {
			return fmt.Errorf("bound the time of %s: %w", h.Name, err)
		}
	}
	if err := to.Close(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r) // what pads the tar
	return err
}
