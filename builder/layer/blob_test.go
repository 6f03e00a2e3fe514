package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/builder/event"
)

// twoLayers builds a tree with a removed file in its second layer.
func twoLayers(t testing.TB, ctx context.Context, s *Store) *Layer {
	t.Helper()
	base := build(t, ctx, s, nil, func(dir string) {
		write(t, dir+"/etc/a", "1")
		write(t, dir+"/etc/b", strings.Repeat("2", 100000))
	})
	return build(t, ctx, s, base, func(dir string) {
		write(t, dir+"/etc/c", "3")
		if err := os.Remove(dir + "/etc/a"); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{dir + "/etc", dir + "/etc/c"} {
			if err := os.Chtimes(d, epoch, epoch); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestBlobs(t *testing.T) {
	for _, backend := range backends {
		for _, typ := range []Type{Gzip, Zstd, EStargz, Uncompressed} {
			t.Run(fmt.Sprint(backend, " ", typ), func(t *testing.T) {
				t.Parallel()
				ctx, s := openOn(t, backend)
				top := twoLayers(t, ctx, s)
				c := Compression{Type: typ}
				blobs, err := s.Blobs(ctx, top, c, event.Progress{})
				if err != nil {
					t.Fatal(err)
				}
				img := Image{}
				for _, b := range blobs {
					checkBlob(t, ctx, s, b, typ)
					img.Layers = append(img.Layers, b.Desc)
					img.DiffIDs = append(img.DiffIDs, b.DiffID)
				}
				l, err := s.Unpack(ctx, img, event.Progress{})
				if err != nil {
					t.Fatal(err)
				}
				dir, release, err := s.Mount(ctx, l)
				if err != nil {
					t.Fatal(err)
				}
				defer release()
				if _, err := os.Stat(dir + "/etc/a"); !errors.Is(err, os.ErrNotExist) || read(t, dir+"/etc/c") != "3" {
					t.Errorf("wrong tree, %v", err)
				}
				again, err := s.Blobs(ctx, top, c, event.Progress{})
				if err != nil || fmt.Sprint(again) != fmt.Sprint(blobs) {
					t.Errorf("asked again: %v, %v; want %v", again, err, blobs)
				}
			})
		}
	}
}

func checkBlob(t *testing.T, ctx context.Context, s *Store, b Blob, typ Type) {
	t.Helper()
	if b.Desc.MediaType != typ.MediaType() || b.Absent {
		t.Errorf("blob %+v", b)
	}
	info, err := s.store.Content.Info(s.store.Context(ctx), b.Desc.Digest)
	if err != nil || info.Labels[labels.LabelUncompressed] != b.DiffID.String() {
		t.Errorf("content %+v, %v", info, err)
	}
	if (b.Desc.Annotations != nil) != (typ == EStargz) {
		t.Errorf("annotations %v", b.Desc.Annotations)
	}
}

// TestBlobsDeterministic expects the same blobs of the same files, in another
// store and from another snapshotter.
func TestBlobsDeterministic(t *testing.T) {
	var want string
	for _, backend := range append(backends, "overlayfs") {
		ctx, s := openOn(t, backend)
		top := build(t, ctx, s, nil, func(dir string) {
			write(t, dir+"/etc/c", "3")
			for _, d := range []string{dir + "/etc", dir + "/etc/c"} {
				if err := os.Chtimes(d, epoch, epoch); err != nil {
					t.Fatal(err)
				}
			}
		})
		blobs, err := s.Blobs(ctx, top, Compression{}, event.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = fmt.Sprint(blobs)
		}
		if got := fmt.Sprint(blobs); got != want {
			t.Errorf("%s: %s, want %s", backend, got, want)
		}
	}
}

// TestBlobsOfChanges expects the same blob of the same changes from every
// snapshotter, however it notes them.
func TestBlobsOfChanges(t *testing.T) {
	at := func(dir string, names ...string) {
		for _, name := range names {
			if err := os.Chtimes(filepath.Join(dir, name), epoch, epoch); err != nil {
				t.Fatal(err)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	got := map[digest.Digest]string{}
	for _, backend := range backends {
		ctx, s := openOn(t, backend)
		base := build(t, ctx, s, nil, func(dir string) {
			for _, name := range []string{"etc/a", "etc/b", "gone/x", "again/x/y", "again/z", "file", "kept"} {
				write(t, filepath.Join(dir, name), name)
				at(dir, name)
			}
			at(dir, "etc", "gone", "again/x", "again")
		})
		base = build(t, ctx, s, base, func(dir string) { write(t, dir+"/between", "1") })
		top := build(t, ctx, s, base, func(dir string) {
			must(os.Remove(dir + "/etc/a"))
			must(os.Link(dir+"/etc/b", dir+"/etc/linked"))
			must(os.RemoveAll(dir + "/gone"))
			must(os.RemoveAll(dir + "/again"))
			write(t, dir+"/again/x/new", "2")
			must(os.Remove(dir + "/file"))
			write(t, dir+"/file/is/a", "directory")
			must(os.Chmod(dir+"/kept", 0o4711))
			must(unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
			at(dir, "etc", "again/x/new", "again/x", "again", "file/is/a", "file/is", "file", "null")
		})
		blobs, err := s.Blobs(ctx, top, Compression{Type: Uncompressed}, event.Progress{})
		must(err)
		if got[blobs[2].DiffID] += " " + backend; len(got) > 1 {
			t.Errorf("different blobs: %v; the last has %v", got, times(t, ctx, s, blobs[2]))
		}
	}
}

// TestBlobsLive expects blobs to live as long as their layers.
func TestBlobsLive(t *testing.T) {
	ctx, s := open(t)
	mine, cancel := context.WithCancel(lease(t, ctx, s.store))
	defer cancel()
	top := twoLayers(t, mine, s)
	blobs, err := s.Blobs(ctx, top, Compression{}, event.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	has := func() (n int) {
		for _, b := range blobs {
			if absent, err := s.absent(s.store.Context(ctx), b.Desc.Digest); err != nil {
				t.Fatal(err)
			} else if !absent {
				n++
			}
		}
		return n
	}
	if err := s.store.GC(ctx); err != nil {
		t.Fatal(err)
	}
	if has() != 2 {
		t.Error("blobs were collected before their layers")
	}
	deleteLease(t, mine, s.store)
	s.Settle()
	if err := s.store.GC(ctx); err != nil {
		t.Fatal(err)
	}
	if has() != 0 || len(snapshotNames(t, ctx, s)) != 0 {
		t.Errorf("%d blobs and snapshots %v outlive their layers", has(), snapshotNames(t, ctx, s))
	}
}

func TestBlobVanished(t *testing.T) {
	ctx, s := open(t)
	top := twoLayers(t, ctx, s)
	blobs, err := s.Blobs(ctx, top, Compression{}, event.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.Content.Delete(s.store.Context(ctx), blobs[1].Desc.Digest); err != nil {
		t.Fatal(err)
	}
	again, err := s.Blobs(ctx, top, Compression{}, event.Progress{})
	if err != nil || fmt.Sprint(again) != fmt.Sprint(blobs) {
		t.Errorf("got %v, %v; want %v", again, err, blobs)
	}
	checkBlob(t, ctx, s, again[1], Gzip)
}

// Where a blob came from is what the image says that was unpacked last and says so.
func TestSourceOfBlobs(t *testing.T) {
	ctx, s := open(t)
	img := testImage(t, ctx, s)
	for _, c := range []struct{ says, want string }{{"", ""}, {"a.example/b", "a.example/b"}, {"c.example/d", "c.example/d"}, {"", "c.example/d"}} {
		img.Layers[0].Annotations = map[string]string{AnnotationSource: c.says}
		l, err := s.Unpack(ctx, img, event.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		if l, err = s.Open(ctx, l.Name); err != nil {
			t.Fatal(err)
		}
		blobs, err := s.Blobs(ctx, l, Compression{}, event.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		if got := blobs[0].Desc.Annotations[AnnotationSource]; got != c.want {
			t.Errorf("%q is said: it came from %q", c.says, got)
		}
	}
}

func TestImageBlobs(t *testing.T) {
	ctx, s := open(t)
	img := testImage(t, ctx, s)
	img.Layers[0].MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	img.Layers[1].Annotations = map[string]string{"containerd.io/distribution.source.example.com": "x", "other": "y"}
	l, err := s.Unpack(ctx, img, event.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	reopened, err := s.Open(ctx, l.Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []*Layer{l, reopened} {
		for _, c := range []Compression{{}, {Type: Zstd}, {Type: Gzip, Force: true}} {
			blobs, err := s.Blobs(ctx, l, c, event.Progress{})
			if err != nil {
				t.Fatal(err)
			}
			for i, b := range blobs {
				if b.Desc.Digest != img.Layers[i].Digest || b.DiffID != img.DiffIDs[i] || b.Desc.MediaType != ocispec.MediaTypeImageLayerGzip {
					t.Errorf("blob %d is %+v", i, b)
				}
			}
			if blobs[1].Desc.Annotations["containerd.io/distribution.source.example.com"] != "x" {
				t.Errorf("annotations %v", blobs[1].Desc.Annotations)
			}
		}
	}
	for _, typ := range []Type{Zstd, Uncompressed, EStargz} {
		blobs, err := s.Blobs(ctx, l, Compression{Type: typ, Force: true}, event.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range blobs {
			checkBlob(t, ctx, s, b, typ)
			if typ != EStargz && b.DiffID != img.DiffIDs[i] {
				t.Errorf("%s: the diff ID changed", typ)
			}
		}
	}
}

func TestAbsentBlob(t *testing.T) {
	ctx, s := open(t)
	img := testImage(t, ctx, s)
	if _, err := s.Unpack(ctx, img, event.Progress{}); err != nil {
		t.Fatal(err)
	}
	if err := s.store.Content.Delete(s.store.Context(ctx), img.Layers[0].Digest); err != nil {
		t.Fatal(err)
	}
	l, err := s.Unpack(ctx, img, event.Progress{}) // it is unpacked, so nothing is fetched
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := s.Blobs(ctx, l, Compression{}, event.Progress{})
	if err != nil || !blobs[0].Absent || blobs[1].Absent || blobs[0].Desc.Digest != img.Layers[0].Digest {
		t.Errorf("got %+v, %v", blobs, err)
	}
	// Compressed anew, it is made from the tree.
	blobs, err = s.Blobs(ctx, l, Compression{Type: Zstd, Force: true}, event.Progress{})
	if err != nil || blobs[0].Absent || blobs[0].Desc.MediaType != ocispec.MediaTypeImageLayerZstd {
		t.Errorf("got %+v, %v", blobs, err)
	}
}

func TestCorruptSource(t *testing.T) {
	ctx, s := open(t)
	l, err := s.Unpack(ctx, testImage(t, ctx, s), event.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	l.source.DiffID = digest.FromString("x")
	if _, err := s.Blobs(ctx, l, Compression{Type: Zstd, Force: true}, event.Progress{}); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
}

func TestBlobsFailing(t *testing.T) {
	ctx, s := open(t)
	top := twoLayers(t, ctx, s)
	if _, err := s.Blobs(ctx, top, Compression{Type: "x"}, event.Progress{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown type: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Blobs(ended, top, Compression{}, event.Progress{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	boom := errors.New("boom")
	_, err := s.writeBlob(s.store.Context(ctx), recipe{Options: Compression{}.options()}, func(_ context.Context, w io.Writer) error {
		w.Write(make([]byte, 1000))
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("failing tar: %v", err)
	}
	nothingWritten(t, ctx, s)
}

// nothingWritten expects neither blobs nor unfinished ones.
func nothingWritten(t *testing.T, ctx context.Context, s *Store) {
	t.Helper()
	ctx = s.store.Context(ctx)
	if left, err := s.store.Content.ListStatuses(ctx); err != nil || len(left) > 0 {
		t.Errorf("unfinished blobs: %v, %v", left, err)
	}
	err := s.store.Content.Walk(ctx, func(i content.Info) error {
		t.Error("left:", i.Digest)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPrepare(t *testing.T) {
	ctx, s := open(t)
	top := twoLayers(t, ctx, s)
	s.Prepare(nil)
	s.Prepare(top)
	s.background.work.Wait()
	info, err := s.store.Snapshots.Stat(s.store.Context(ctx), top.Name)
	if err != nil || readBlob(info.Labels, "gzip") == nil {
		t.Errorf("labels %v, %v", info.Labels, err)
	}
	s.Prepare(&Layer{Name: "nothing"}) // fails quietly
}

func TestRecordLimits(t *testing.T) {
	b := Blob{Desc: ocispec.Descriptor{
		Digest:      digest.FromString("x"),
		Annotations: map[string]string{"containerd.io/snapshot/stargz/x": strings.Repeat("x", 10000)},
	}, DiffID: digest.FromString("y")}
	labels, err := blobLabels("gzip", b)
	if err != nil {
		t.Fatal(err)
	}
	got := readBlob(labels, "gzip")
	if got == nil || got.Desc.Digest != b.Desc.Digest || got.DiffID != b.DiffID || got.Desc.Annotations != nil {
		t.Errorf("got %+v", got)
	}
	b.Desc.MediaType = strings.Repeat("x", 10000)
	if _, err := blobLabels("gzip", b); err == nil {
		t.Error("an endless media type is accepted")
	}
	for _, bad := range []string{"", "{", "{}", `{"digest":"sha256:x"}`} {
		if readBlob(map[string]string{labelBlob + "gzip": bad}, "gzip") != nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestMediaTypes(t *testing.T) {
	for in, want := range map[string]string{
		"application/vnd.docker.image.rootfs.diff.tar":              ocispec.MediaTypeImageLayer,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":         ocispec.MediaTypeImageLayerGzip,
		"application/vnd.docker.image.rootfs.diff.tar.zstd":         ocispec.MediaTypeImageLayerZstd,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		ocispec.MediaTypeImageLayerGzip:                             ocispec.MediaTypeImageLayerGzip,
		"x":                                                         "x",
	} {
		if got := ociMediaType(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// TestStandardReaders expects what we write to be what others can read.
func TestStandardReaders(t *testing.T) {
	ctx, s := open(t)
	top := twoLayers(t, ctx, s)
	for _, typ := range []Type{Gzip, Zstd, EStargz} {
		blobs, err := s.Blobs(ctx, top, Compression{Type: typ}, event.Progress{})
		if err != nil {
			t.Fatal(err)
		}
		data, err := content.ReadBlob(s.store.Context(ctx), s.store.Content, blobs[0].Desc)
		if err != nil {
			t.Fatal(err)
		}
		r, err := compression.DecompressStream(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(r)
		if err != nil || digest.FromBytes(plain) != blobs[0].DiffID {
			t.Errorf("%s: %v", typ, err)
		}
		r.Close()
	}
}
