package pack

import (
	"bufio"
	"context"
	"errors"
	"hash"
	"io"
	"strconv"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// packEStargz writes the format of
// https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md.
// The tar is kept as it is; the table of contents behind it belongs to what the
// blob decompresses to, so the diff ID is not that of the tar.
func packEStargz(ctx context.Context, w io.Writer, o Options, tar func(io.Writer) error) (Packed, error) {
	level := gzip.DefaultCompression
	if o.Level != nil {
		level = *o.Level
	}
	c := &counter{GzipCompressor: estargz.NewGzipCompressorWithLevel(level), level: level}
	dest := &errorKeeper{w: w}
	zw := estargz.NewWriterWithCompressor(dest, c)

	r, pw := io.Pipe()
	source := make(chan error, 1)
	go func() {
		bw := bufio.NewWriterSize(pw, bufferSize)
		err := tar(bw)
		if err == nil {
			err = bw.Flush()
		}
		pw.CloseWithError(err)
		source <- err
	}()
	err := zw.AppendTarLossLess(contextReader{ctx, r})
	if err == nil {
		_, err = io.Copy(io.Discard, r) // what follows the tar's end
	}
	r.CloseWithError(errStopped) // ends the goroutine if it is still writing
	if serr := <-source; serr != nil && !errors.Is(serr, errStopped) {
		err = serr
	}
	if err != nil {
		return Packed{}, errors.Join(err, dest.err)
	}
	toc, err := zw.Close()
	if err != nil {
		return Packed{}, errors.Join(err, dest.err)
	}
	return Packed{
		DiffID: digest.Digest(zw.DiffID()),
		Annotations: map[string]string{
			estargz.TOCJSONDigestAnnotation:         toc.String(),
			estargz.StoreUncompressedSizeAnnotation: strconv.FormatInt(c.n, 10),
		},
	}, nil
}

var errStopped = errors.New("the compressor has stopped")

// errorKeeper keeps the first error of w, which estargz only passes on as text.
type errorKeeper struct {
	w   io.Writer
	err error
}

func (k *errorKeeper) Write(p []byte) (int, error) {
	n, err := k.w.Write(p)
	if k.err == nil {
		k.err = err
	}
	return n, err
}

// counter compresses, faster than estargz does by itself, and counts the bytes
// that it is given.
type counter struct {
	*estargz.GzipCompressor
	level int
	n     int64
}

func (c *counter) Writer(w io.Writer) (estargz.WriteFlushCloser, error) {
	zw, err := gzip.NewWriterLevel(w, c.level)
	if err != nil {
		return nil, err
	}
	return countWriter{zw, &c.n}, nil
}

func (c *counter) WriteTOCAndFooter(w io.Writer, off int64, toc *estargz.JTOC, diffID hash.Hash) (digest.Digest, error) {
	return c.GzipCompressor.WriteTOCAndFooter(w, off, toc, countHash{diffID, &c.n})
}

type countWriter struct {
	*gzip.Writer
	n *int64
}

func (w countWriter) Write(p []byte) (int, error) {
	*w.n += int64(len(p))
	return w.Writer.Write(p)
}

type countHash struct {
	hash.Hash
	n *int64
}

func (h countHash) Write(p []byte) (int, error) {
	*h.n += int64(len(p))
	return h.Hash.Write(p)
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
