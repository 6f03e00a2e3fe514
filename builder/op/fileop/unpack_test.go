package fileop

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/solver/pb"
	"github.com/ulikunitz/xz"
)

// bzip2Tar is an archive with the file f, since there is nothing to make one.
const bzip2Tar = "QlpoOTFBWSZTWX/RTa4AAG97gM0AAAFAAHUAAADjAB5ACAggAFRGoAGjQNAkRIGTQAfcZkIQd0QhE9Xybc0QIYMtF2iWI3gE1DSeGPdCIMk11V8vqAAi+LuSKcKEg/6KbXA="

func entry(kind byte, name, link string, mode int64) *tar.Header {
	return &tar.Header{
		Typeflag: kind, Name: name, Linkname: link, Mode: mode, Uid: 11, Gid: 12,
		ModTime: time.Unix(500, 0), Format: tar.FormatPAX,
	}
}

// archive makes a tar archive; files hold their own name.
func archive(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		must(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, h.Name)
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

func unpacking(a *pb.FileActionCopy) { a.AttemptUnpackDockerCompatibility = true }

// unpackInto copies the file, unpacking it, to /x of a tree.
func unpackInto(t *testing.T, data []byte, tree string, owner *Owner) (root string, err error) {
	t.Helper()
	src, from := grow(t, "")
	must(t, os.WriteFile(filepath.Join(from, "a.tar"), data, 0o640))
	dst, root := grow(t, tree)
	err = Copy(t.Context(), src, dst, action("a.tar", "/x/", unpacking), owner)
	alone(t, root)
	return root, err
}

func TestUnpackFormats(t *testing.T) {
	t.Parallel()
	plain := archive(t, entry(tar.TypeReg, "f", "", 0o644))
	compress := func(open func(w io.Writer) (io.WriteCloser, error)) []byte {
		var b bytes.Buffer
		w, err := open(&b)
		must(t, err)
		w.Write(plain)
		must(t, w.Close())
		return b.Bytes()
	}
	bz2, err := base64.StdEncoding.DecodeString(bzip2Tar)
	must(t, err)
	for name, data := range map[string][]byte{
		"tar":   plain,
		"gzip":  compress(func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"zstd":  compress(func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
		"xz":    compress(func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
		"bzip2": bz2,
	} {
		root, err := unpackInto(t, data, "", nil)
		must(t, err)
		if got := show(t, root); !strings.Contains(got, " x/f @") {
			t.Errorf("%s: got\n%s", name, got)
		}
	}
}

// TestUnpackOthers copies what is no archive as it is.
func TestUnpackOthers(t *testing.T) {
	t.Parallel()
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write([]byte("just text"))
	must(t, w.Close())
	for name, data := range map[string][]byte{
		"empty": nil, "text": []byte("text"), "compressed text": gz.Bytes(), "like gzip": []byte("\x1f\x8b\x08 not"),
		"like xz": []byte("\xfd7zXZ\x00 not"), "like zstd": []byte("\x28\xb5\x2f\xfd not"), "like bzip2": []byte("BZh not"),
		"empty archive": make([]byte, 1024),
	} {
		root, err := unpackInto(t, data, "", nil)
		must(t, err)
		if got, err := os.ReadFile(filepath.Join(root, "x/a.tar")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	// Neither is a directory or a link to nothing.
	src, _ := grow(t, "d755 0:0 d\nf644 0:0 d/f x\nl 0:0 l -> none")
	dst, root := grow(t, "")
	must(t, Copy(t.Context(), src, dst, action("d", "x", unpacking), nil))
	same(t, show(t, root), "d755 0:0 x @101\nf644 0:0 x/f @102 x")
	fails(t, Copy(t.Context(), src, dst, action("l", "y", unpacking), nil), "lstat /none: no such file or directory")
}

func TestUnpackEntries(t *testing.T) {
	t.Parallel()
	with := func(h *tar.Header, change func(*tar.Header)) *tar.Header {
		change(h)
		return h
	}
	for _, c := range []struct {
		name    string
		tree    string
		headers []*tar.Header
		owner   *Owner
		want    string
		wantErr string
	}{
		{
			name: "all kinds",
			headers: []*tar.Header{
				{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c"}}, entry(tar.TypeDir, "./", "", 0o700),
				entry(tar.TypeDir, "d/", "", 0o750), entry(tar.TypeReg, "d/f", "", 0o4755),
				entry(tar.TypeSymlink, "d/l", "/etc/x", 0o777), entry(tar.TypeLink, "d/h", "d/f", 0o644),
				entry(tar.TypeFifo, "d/p", "", 0o600), entry(tar.TypeReg, "implied/f", "", 0o600),
			},
			want: `d755 0:0 x
				d750 11:12 x/d @500
				f4755 11:12 x/d/f @500 d/f
				h x/d/f => x/d/h
				l 11:12 x/d/l @500 -> /etc/x
				p600 11:12 x/d/p @500
				d755 0:0 x/implied
				f600 11:12 x/implied/f @500 implied/f`,
		},
		{
			name: "owner", owner: &Owner{1, 2}, headers: []*tar.Header{entry(tar.TypeReg, "d/f", "", 0o600), entry(tar.TypeSymlink, "l", "d", 0)},
			want: "d755 1:2 x\nd755 1:2 x/d\nf600 1:2 x/d/f @500 d/f\nl 1:2 x/l @500 -> d",
		},
		{
			name: "over what is there", tree: "d711 9:9 x\nd700 9:9 x/d\nf600 9:9 x/d/old old\nf600 9:9 x/f old\nd700 9:9 x/e\nf600 9:9 x/e/g old\nl 9:9 x/l -> d",
			headers: []*tar.Header{
				entry(tar.TypeDir, "d", "", 0o755), entry(tar.TypeReg, "f", "", 0o644), entry(tar.TypeReg, "e", "", 0o644), entry(tar.TypeDir, "l", "", 0o755),
			},
			want: "d711 9:9 x\nd755 11:12 x/d @500\nf600 9:9 x/d/old @103 old\nf644 11:12 x/e @500 e\nf644 11:12 x/f @500 f\nd755 11:12 x/l @500",
		},
		{
			name: "through links that are there", tree: "d755 0:0 x\nd755 0:0 x/real\nl 0:0 x/link -> /real",
			headers: []*tar.Header{entry(tar.TypeReg, "link/f", "", 0o644)},
			want:    "d755 0:0 x @101\nl 0:0 x/link @103 -> /real\nd755 0:0 x/real\nf644 11:12 x/real/f @500 link/f",
		},
		{
			name:    "absolute and dotted names",
			headers: []*tar.Header{entry(tar.TypeReg, "/a/b/../f", "", 0o644), entry(tar.TypeReg, "./c/./g", "", 0o644)},
			want:    "d755 0:0 x\nd755 0:0 x/a\nf644 11:12 x/a/f @500 /a/b/../f\nd755 0:0 x/c\nf644 11:12 x/c/g @500 ./c/./g",
		},
		{name: "above", headers: []*tar.Header{entry(tar.TypeReg, "../f", "", 0o644)}, want: "d755 0:0 x", wantErr: `unpacking /a.tar: the archive has the entry "../f" outside of it`},
		{name: "above later", headers: []*tar.Header{entry(tar.TypeReg, "a/../../f", "", 0o644)}, want: "d755 0:0 x", wantErr: `unpacking /a.tar: the archive has the entry "a/../../f" outside of it`},
		{
			name: "through links out",
			headers: []*tar.Header{
				entry(tar.TypeSymlink, "abs", "/", 0), entry(tar.TypeReg, "abs/f", "", 0o600),
				entry(tar.TypeSymlink, "up", "../../..", 0), entry(tar.TypeReg, "up/g", "", 0o600),
			},
			want: "d755 0:0 x\nl 11:12 x/abs @500 -> /\nf600 11:12 x/f @500 abs/f\nf600 11:12 x/g @500 up/g\nl 11:12 x/up @500 -> ../../..",
		},
		{
			name: "hard link out", tree: "d755 0:0 x\nl 0:0 x/l -> /\nf600 0:0 secret secret",
			headers: []*tar.Header{entry(tar.TypeLink, "h", "l/secret", 0)},
			want:    "f600 0:0 secret @103 secret\nd755 0:0 x @101\nl 0:0 x/l @102 -> /", wantErr: "unpacking /a.tar: extract /h: no such file or directory",
		},
		{name: "hard link above", headers: []*tar.Header{entry(tar.TypeLink, "h", "../secret", 0)}, tree: "f600 0:0 secret s", want: "f600 0:0 secret @101 s\nd755 0:0 x", wantErr: `unpacking /a.tar: extract /h: the archive has the entry "../secret" outside of it`},
		{
			name: "directory that becomes a link", tree: "d755 0:0 y\nd755 0:0 x",
			headers: []*tar.Header{entry(tar.TypeDir, "d", "", 0o755), entry(tar.TypeSymlink, "d", "/", 0), entry(tar.TypeDir, "e/f", "", 0o755), entry(tar.TypeSymlink, "e", "/", 0)},
			want:    "d755 0:0 x\nl 11:12 x/d @500 -> /\nl 11:12 x/e @500 -> /\nd755 0:0 y @101",
		},
		{name: "unknown kind", headers: []*tar.Header{entry('Z', "f", "", 0o600)}, want: "d755 0:0 x", wantErr: "unpacking /a.tar: extract /f: unhandled type 'Z'"},
		{
			name: "attributes and absurd times",
			headers: []*tar.Header{with(entry(tar.TypeReg, "f", "", 0o600), func(h *tar.Header) {
				h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "v", "SCHILY.xattr.nonsense": "v"}
				h.ModTime = time.Unix(-1<<40, 0)
			})},
			want: "d755 0:0 x\nf600 11:12 x/f @0 f",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root, err := unpackInto(t, archive(t, c.headers...), c.tree, c.owner)
			if c.wantErr != "" {
				fails(t, err, c.wantErr)
			} else if err != nil {
				t.Error(err)
			}
			same(t, show(t, root), c.want)
		})
	}
}

func TestUnpackTruncated(t *testing.T) {
	t.Parallel()
	data := archive(t, entry(tar.TypeReg, strings.Repeat("f", 90), "", 0o600))
	if _, err := unpackInto(t, data[:550], "", nil); err == nil || !strings.Contains(err.Error(), "unexpected EOF") {
		t.Errorf("got %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	var t testing.T
	f.Add(archive(&t, entry(tar.TypeDir, "d", "", 0o755), entry(tar.TypeSymlink, "d/l", "../..", 0), entry(tar.TypeReg, "d/l/f", "", 0o600)))
	f.Add(archive(&t, entry(tar.TypeLink, "h", "/../x", 0), entry(tar.TypeFifo, "p", "", 0)))
	f.Fuzz(func(t *testing.T, data []byte) {
		unpackInto(t, data, "d755 0:0 x\nl 0:0 x/l -> ../../..", nil) // checks that nothing is beside the root
	})
}
