package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/archive/compression"

	"github.com/kiln-build/kiln/builder/event"
)

// times gives the times of a blob's files, in seconds.
func times(t *testing.T, ctx context.Context, s *Store, b Blob) map[string]int64 {
	t.Helper()
	ra, err := s.store.Content.ReaderAt(s.store.Context(ctx), b.Desc)
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	r, err := compression.DecompressStream(bufio.NewReader(content.NewReader(ra)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all := map[string]int64{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = h.ModTime.Unix()
	}
}

// aged builds a layer with a file as old as the epoch of tests, and one that is
// new.
func aged(t *testing.T, ctx context.Context, s *Store, parent *Layer, name string) *Layer {
	t.Helper()
	return build(t, ctx, s, parent, func(dir string) {
		write(t, dir+"/"+name+".old", "1")
		write(t, dir+"/"+name+".new", "2")
		if err := os.Chtimes(dir+"/"+name+".old", epoch, epoch); err != nil {
			t.Fatal(err)
		}
	})
}

func TestEpoch(t *testing.T) {
	t.Parallel()
	ctx, s := open(t)
	ctx = lease(t, ctx, s.store)
	top := aged(t, ctx, s, aged(t, ctx, s, aged(t, ctx, s, nil, "base"), "middle"), "top")
	plain, err := s.Blobs(ctx, top, Compression{}, event.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(5000, 0)
	for _, typ := range []Type{Gzip, Zstd, EStargz, Uncompressed} {
		c := Compression{Type: typ, Epoch: &at, Bases: 1}
		blobs, err := s.Blobs(ctx, top, c, event.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		if typ == Gzip && blobs[0].Desc.Digest != plain[0].Desc.Digest {
			t.Errorf("%s: the base was rewritten", typ)
		}
		if blobs[0].Desc.Annotations[annotationEpoch] != "" {
			t.Errorf("%s: the base has annotations %v", typ, blobs[0].Desc.Annotations)
		}
		for i, name := range []string{"middle", "top"} {
			b := blobs[i+1]
			got := times(t, ctx, s, b)
			if got[name+".old"] != epoch.Unix() || got[name+".new"] != at.Unix() || b.Desc.Annotations[annotationEpoch] != "5000" {
				t.Errorf("%s, layer %s: times %v, annotations %v", typ, name, got, b.Desc.Annotations)
			}
		}
		again, err := s.Blobs(ctx, top, c, event.Progress{})
		if err != nil || fmt.Sprint(again) != fmt.Sprint(blobs) {
			t.Errorf("%s: asked again: %v, %v; want %v", typ, again, err, blobs)
		}
	}
	after, err := s.Blobs(ctx, top, Compression{}, event.Progress{})
	if err != nil || fmt.Sprint(after) != fmt.Sprint(plain) {
		t.Errorf("without an epoch: %v, %v; want %v", after, err, plain)
	}
}

// TestEpochsDontPileUp: a layer keeps the blobs of the last epoch.
func TestEpochsDontPileUp(t *testing.T) {
	t.Parallel()
	ctx, s := open(t)
	ctx = lease(t, ctx, s.store)
	l := aged(t, ctx, s, nil, "a")
	if _, err := s.Blobs(ctx, l, Compression{}, event.Progress{}); err != nil {
		t.Fatal(err)
	}
	future := time.Now().Add(time.Hour) // changes nothing: the blob is the plain one
	for _, at := range []time.Time{time.Unix(2000, 0), future, time.Unix(3000, 0), time.Unix(4000, 0)} {
		if _, err := s.Blobs(ctx, l, Compression{Epoch: &at}, event.Progress{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.store.GC(ctx); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := s.store.Content.Walk(s.store.Context(ctx), func(content.Info) error { n++; return nil })
	if err != nil || n != 2 { // the plain blob, and that of the last epoch
		t.Errorf("%d blobs, %v", n, err)
	}
}

// TestEpochOfAnImageLayer: what was pulled and isn't a base is rewritten, too.
func TestEpochOfAnImageLayer(t *testing.T) {
	t.Parallel()
	ctx, s := open(t)
	img := testImage(t, ctx, s)
	l, err := s.Unpack(ctx, img, event.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(-5, 0)
	n := len(img.Layers)
	for bases := range n + 2 {
		blobs, err := s.Blobs(ctx, l, Compression{Epoch: &at, Bases: bases}, event.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range blobs {
			if stays := b.Desc.Digest == img.Layers[i].Digest; stays != (i < bases) {
				t.Errorf("%d bases: layer %d stays: %v", bases, i, stays)
			}
		}
	}
}

func TestBoundTimes(t *testing.T) {
	t.Parallel()
	at := time.Unix(5000, 0)
	var in, out bytes.Buffer
	tw := tar.NewWriter(&in)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}},
		{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at.Add(time.Nanosecond), AccessTime: at.Add(1), ChangeTime: at.Add(-1), Format: tar.FormatPAX},
		{Name: strings.Repeat("d/", 200) + "f", Typeflag: tar.TypeReg, Size: 3, ModTime: at, PAXRecords: map[string]string{"SCHILY.xattr.user.k": "v"}},
		{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "x", ModTime: at.Add(time.Hour)},
	} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			fmt.Fprint(tw, "abc")
		}
	}
	tw.Close()
	in.Write(make([]byte, 20<<10)) // padding
	if err := boundTimes(&out, &in, at); err != nil || in.Len() > 0 {
		t.Fatalf("%v, %d bytes are left", err, in.Len())
	}
	var got []string
	for tr := tar.NewReader(&out); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(tr)
		if h.ModTime.After(at) || h.AccessTime.After(at) || h.ChangeTime.After(at) {
			t.Errorf("%s: %v %v %v", h.Name, h.ModTime, h.AccessTime, h.ChangeTime)
		}
		got = append(got, fmt.Sprintf("%c %d %s%s%s", h.Typeflag, len(h.Name), h.PAXRecords["SCHILY.xattr.user.k"], h.Linkname, data))
	}
	if want := "[g 14  5 2  0 401 vabc 2 1 x]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	for name, r := range map[string]io.Reader{"no tar": strings.NewReader(strings.Repeat("x", 1024)), "half": bytes.NewReader(make([]byte, 700))} {
		if err := boundTimes(io.Discard, r, at); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRecipeFailures(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	r := recipe{epoch: &epoch}
	fails := func(_ context.Context, w io.Writer) error {
		w.Write(make([]byte, 512))
		return boom
	}
	if err := r.tar(fails)(t.Context(), io.Discard); !errors.Is(err, boom) {
		t.Errorf("failing tar: %v", err)
	}
	endless := func(_ context.Context, w io.Writer) error {
		tw := tar.NewWriter(w)
		for {
			if err := tw.WriteHeader(&tar.Header{Name: "x"}); err != nil {
				return err
			}
		}
	}
	if err := r.tar(endless)(t.Context(), failingWriter{boom}); !errors.Is(err, boom) {
		t.Errorf("failing writer: %v", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
