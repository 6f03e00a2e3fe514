package pack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strconv"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// sampleTar has a few files of half-random bytes, n in all.
func sampleTar(t testing.TB, n int) []byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for i := 0; n > 0; i++ {
		data := make([]byte, min(n, 1+rng.IntN(3<<20)))
		n -= len(data)
		for i := 0; i < len(data); i += 8 {
			v := rng.Uint64()
			for j := range data[i:min(len(data), i+8)] {
				data[i+j] = "abcdefgh\x00\n 0123"[v>>(8*j)&7+v>>(8*j+3)&7%8]
			}
		}
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("file%d", i), Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		tw.Write(data)
	}
	tw.Close()
	return buf.Bytes()
}

// sampleFor is a tar of more than one of the blocks that are compressed at a
// time, or a small one where compressing takes long.
func sampleFor(t testing.TB, o Options) []byte {
	t.Helper()
	switch {
	case o.Level != nil:
		return sampleTar(t, 100<<10)
	case o.Type == Zstd:
		return sampleTar(t, zstdFrame+1000)
	}
	return sampleTar(t, gzipBlock+1000)
}

func level(l int) *int { return &l }

// inPieces writes data with writes of the size.
func inPieces(data []byte, size int) func(io.Writer) error {
	return func(w io.Writer) error {
		for rest := data; len(rest) > 0; {
			n := min(size, len(rest))
			if _, err := w.Write(rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	}
}

var all = []Options{
	{Type: Uncompressed}, {Type: Gzip}, {Type: Zstd}, {Type: EStargz},
	{Type: Gzip, Level: level(0)}, {Type: Gzip, Level: level(9)},
	{Type: Zstd, Level: level(0)}, {Type: Zstd, Level: level(22)},
	{Type: EStargz, Level: level(1)},
}

func TestRoundTrip(t *testing.T) {
	for _, o := range all {
		data := sampleFor(t, o)
		t.Run(o.String(), func(t *testing.T) {
			var blob bytes.Buffer
			p, err := Pack(context.Background(), &blob, o, inPieces(data, 10000))
			if err != nil {
				t.Fatal(err)
			}
			r, err := compression.DecompressStream(bytes.NewReader(blob.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			plain, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if got := digest.FromBytes(plain); got != p.DiffID && (o.Type != Uncompressed || p.DiffID != "") {
				t.Errorf("diff ID is %s, content is %s", p.DiffID, got)
			}
			if o.Type == EStargz {
				checkEStargz(t, blob.Bytes(), plain, p)
			} else if !bytes.Equal(plain, data) {
				t.Error("other content")
			}
		})
	}
}

func checkEStargz(t *testing.T, blob, plain []byte, p Packed) {
	if got := p.Annotations[estargz.StoreUncompressedSizeAnnotation]; got != strconv.Itoa(len(plain)) {
		t.Errorf("size annotation is %s, want %d", got, len(plain))
	}
	r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Annotations[estargz.TOCJSONDigestAnnotation]; got != r.TOCDigest().String() {
		t.Errorf("TOC annotation is %s, want %s", got, r.TOCDigest())
	}
	if _, ok := r.Lookup("file0"); !ok {
		t.Error("a file isn't in the TOC")
	}
}

// TestDeterministic expects the same bytes whatever the number of processors
// and however the tar is written.
func TestDeterministic(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, o := range all {
		if o.Level != nil {
			continue
		}
		data := sampleFor(t, o)
		var want digest.Digest
		for i, procs := range []int{1, 2, 5} {
			runtime.GOMAXPROCS(procs)
			var blob bytes.Buffer
			if _, err := Pack(context.Background(), &blob, o, inPieces(data, 1000+i*777777)); err != nil {
				t.Fatal(err)
			}
			got := digest.FromBytes(blob.Bytes())
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("%s: other bytes with %d processors", o, procs)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	boom := errors.New("boom")
	data := sampleTar(t, 300<<10)
	before := runtime.NumGoroutine()
	for _, o := range all {
		_, err := Pack(context.Background(), io.Discard, o, func(w io.Writer) error {
			w.Write(make([]byte, 2*gzipBlock))
			return boom
		})
		if !errors.Is(err, boom) {
			t.Errorf("%s: source fails: %v", o, err)
		}
		_, err = Pack(context.Background(), failing{boom}, o, inPieces(data, 1000))
		if !errors.Is(err, boom) {
			t.Errorf("%s: destination fails: %v", o, err)
		}
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Type: "lzma"}, {}, {Type: Gzip, Level: level(10)}, {Type: Zstd, Level: level(-1)}} {
		if err := o.Check(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", o, err)
		}
		if _, err := Pack(context.Background(), io.Discard, o, inPieces(nil, 1)); err == nil {
			t.Errorf("%s is accepted", o)
		}
	}
	if typ, err := Parse(""); typ != Gzip || err != nil {
		t.Errorf("no name: %s, %v", typ, err)
	}
	if _, err := Parse("nydus"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown name: %v", err)
	}
}

func BenchmarkPack(b *testing.B) {
	data := sampleTar(b, 64<<20)
	for _, o := range all {
		b.Run(o.String(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			var n int
			for b.Loop() {
				var blob bytes.Buffer
				if _, err := Pack(context.Background(), &blob, o, inPieces(data, 32<<10)); err != nil {
					b.Fatal(err)
				}
				n = blob.Len()
			}
			b.ReportMetric(float64(n)/float64(len(data)), "ratio")
		})
	}
	b.Run("stdlib gzip", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			w := gzip.NewWriter(io.Discard)
			w.Write(data)
			w.Close()
		}
	})
}
