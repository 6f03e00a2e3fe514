package pack

import (
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// What is compressed at a time, in bytes; the result depends on it.
const (
	gzipBlock = 1 << 20
	zstdFrame = 4 << 20
)

// newGzip writes one gzip member whose blocks are compressed in parallel.
func newGzip(w io.Writer, level *int) (io.WriteCloser, error) {
	l := pgzip.DefaultCompression
	if level != nil {
		l = *level
	}
	zw, err := pgzip.NewWriterLevel(w, l)
	if err != nil {
		return nil, err
	}
	if err := zw.SetConcurrency(gzipBlock, runtime.GOMAXPROCS(0)+1); err != nil {
		return nil, err
	}
	return zw, nil
}

// newZstd writes a sequence of frames, compressed in parallel; decoders take
// it as one stream.
func newZstd(w io.Writer, level *int) (io.WriteCloser, error) {
	l := zstd.SpeedDefault
	if level != nil {
		l = zstd.EncoderLevelFromZstd(*level)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(l), zstd.WithWindowSize(zstdFrame))
	if err != nil {
		return nil, err
	}
	return newFrames(w, zstdFrame, func(src []byte) []byte { return enc.EncodeAll(src, nil) }), nil
}
