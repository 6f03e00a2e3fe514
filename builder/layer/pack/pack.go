// Package pack compresses the tar of a layer. The bytes depend on the tar and
// on the compression that was asked for, not on the machine, so that the same
// layer has the same digest wherever it is built.
package pack

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Type is a form of layer blobs.
type Type string

// The types, by their names in requests.
const (
	Uncompressed Type = "uncompressed"
	Gzip         Type = "gzip"
	Zstd         Type = "zstd"
	EStargz      Type = "estargz"
)

// levels are the highest compression levels that may be asked for.
var levels = map[Type]int{Uncompressed: 0, Gzip: 9, Zstd: 22, EStargz: 9}

// Parse returns the type with the name; "" is gzip.
func Parse(name string) (Type, error) {
	if name == "" {
		return Gzip, nil
	}
	if _, ok := levels[Type(name)]; !ok {
		var known []string
		for _, t := range slices.Sorted(maps.Keys(levels)) {
			known = append(known, string(t))
		}
		return "", fmt.Errorf("unsupported compression type %q: have %s: %w", name, strings.Join(known, ", "), errdefs.ErrInvalidArgument)
	}
	return Type(name), nil
}

// MediaType returns OCI's media type of the blobs; "" for an unknown type.
func (t Type) MediaType() string {
	switch t {
	case Uncompressed:
		return ocispec.MediaTypeImageLayer
	case Gzip, EStargz:
		return ocispec.MediaTypeImageLayerGzip
	case Zstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ""
}

// Options say how to compress.
type Options struct {
	Type Type
	// Level is that of the type, from 0; nil is the type's default.
	Level *int
}

// String names the options; those that give other bytes have another name.
func (o Options) String() string {
	if o.Level == nil {
		return string(o.Type)
	}
	return fmt.Sprintf("%s-%d", o.Type, *o.Level)
}

// Check tells whether the options make sense.
func (o Options) Check() error {
	highest, ok := levels[o.Type]
	if !ok {
		_, err := Parse(string(o.Type) + " ")
		return err
	}
	if o.Level != nil && o.Type != Uncompressed && (*o.Level < 0 || *o.Level > highest) {
		return fmt.Errorf("compression level %d for %s: have 0 to %d: %w", *o.Level, o.Type, highest, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Packed says what Pack has written, beside the bytes themselves.
type Packed struct {
	// DiffID is the digest of what the blob decompresses to; "" for an
	// uncompressed one, which whoever stores it digests anyway.
	DiffID digest.Digest
	// Annotations belong to the blob's descriptor; may be nil.
	Annotations map[string]string
}

// bufferSize is what tars are passed on in; their own writes are often small.
const bufferSize = 256 << 10

// Pack writes to w what the function tar writes, compressed.
func Pack(ctx context.Context, w io.Writer, o Options, tar func(io.Writer) error) (Packed, error) {
	if err := o.Check(); err != nil {
		return Packed{}, err
	}
	if o.Type == EStargz {
		return packEStargz(ctx, w, o, tar)
	}
	if o.Type == Uncompressed {
		bw := bufio.NewWriterSize(w, bufferSize)
		if err := tar(bw); err != nil {
			return Packed{}, err
		}
		return Packed{}, bw.Flush()
	}
	zw, err := newWriter(w, o)
	if err != nil {
		return Packed{}, fmt.Errorf("compress with %s: %w", o, err)
	}
	hash := digest.Canonical.Digester()
	bw := bufio.NewWriterSize(io.MultiWriter(hash.Hash(), zw), bufferSize)
	err = tar(bw)
	if err == nil {
		err = bw.Flush()
	}
	// Closing ends the compressor's goroutines, also after an error.
	if cerr := zw.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Packed{}, err
	}
	return Packed{DiffID: hash.Digest()}, nil
}

func newWriter(w io.Writer, o Options) (io.WriteCloser, error) {
	if o.Type == Zstd {
		return newZstd(w, o.Level)
	}
	return newGzip(w, o.Level)
}
