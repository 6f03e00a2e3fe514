package snapshotter

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/integration/testbed"
)

// plain are the layers of an image with everything that layers can have.
var plain = [][]tar.Header{{
	{Name: "d/", Mode: 0o2755, Uid: 7, Gid: 8, PAXRecords: map[string]string{"SCHILY.xattr.user.dir": "of a directory"}},
	{Name: "d/old1", Mode: 0o600, Size: 10}, {Name: "d/old2", Mode: 0o644, Size: 3 << 20}, {Name: "d/kept", Mode: 0o4711, Uid: 1234, Gid: 5678, Size: 5},
	{Name: "opaque/", Mode: 0o700}, {Name: "opaque/x", Size: 1}, {Name: "opaque/deep/", Mode: 0o755}, {Name: "opaque/deep/y", Size: 1},
	{Name: "becomes-file/", Mode: 0o755}, {Name: "becomes-file/z", Size: 4}, {Name: "becomes-dir", Size: 4},
	{Name: "hard1", Size: 6, Mode: 0o644}, {Name: "hard2", Typeflag: tar.TypeLink, Linkname: "hard1"},
	{Name: "sym", Typeflag: tar.TypeSymlink, Linkname: "../d/kept"}, {Name: "dangling", Typeflag: tar.TypeSymlink, Linkname: "/no/where"},
	{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o640}, {Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666},
	{Name: "able", Mode: 0o755, Size: 2, PAXRecords: map[string]string{
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "SCHILY.xattr.user.a": "b",
	}},
	{Name: strings.Repeat("long-", 40) + "näme", Size: 7},
}, {
	{Name: "d/.wh.old1"}, {Name: "opaque/.wh..wh..opq"}, {Name: "opaque/new", Size: 2},
	{Name: ".wh.becomes-file"}, {Name: "becomes-file", Size: 9, Mode: 0o755},
	{Name: ".wh.becomes-dir"}, {Name: "becomes-dir/", Mode: 0o711}, {Name: "becomes-dir/inside", Size: 8},
	{Name: ".wh.fifo"},
}, {
	{Name: "d/", Mode: 0o500}, {Name: "d/old1", Mode: 0o777, Size: 11}, {Name: "opaque/.wh.new"}, {Name: ".wh.hard1"}, {Name: ".wh.never-was"},
}}

// TestPlainImage: an image that can't be shown lazily is on kiln's snapshotter what it
// is on containerd's overlayfs, unpacked the same way.
func TestPlainImage(t *testing.T) {
	t.Parallel()
	img, err := testbed.Busybox()
	for _, headers := range plain {
		if err == nil {
			img, err = mutate.Append(img, mutate.Addendum{Layer: plainLayer(t, headers)})
		}
	}
	if err == nil {
		err = registry.PushImage("plain:1", img)
	}
	if err != nil {
		t.Fatal(err)
	}
	releases(t, func(t *testing.T, release testbed.Release) {
		dir, plugin, flags := setup(t)
		const unpack = `[[plugins."io.containerd.transfer.v1.local".unpack_config]]`
		_, kilns, _ := strings.Cut(plugin, unpack)
		plugin += unpack + strings.Replace(kilns, `"kiln"`, `"overlayfs"`, 1)
		b := &bed{TB: t, containerd: release.StartIn(t, testbed.Dir(t), plugin)}
		b.daemon = testbed.StartDaemonIn(t, dir, append(flags, "--containerd-address", b.containerd.Socket)...)
		ref := registry.Host + "/plain:1"
		trees := map[string]map[string]string{}
		for _, sn := range []string{"kiln", "overlayfs"} {
			dir := filepath.Join(testbed.Dir(t), "tree")
			b.must(os.Mkdir(dir, 0o700))
			b.ctr("images", "pull", "--plain-http", "--snapshotter", sn, ref)
			b.ctr("images", "mount", "--snapshotter", sn, ref, dir)
			trees[sn] = b.tree(dir)
			b.ctr("images", "unmount", "--rm", dir)
		}
		names := maps.Clone(trees["kiln"])
		maps.Copy(names, trees["overlayfs"])
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if k, o := trees["kiln"][name], trees["overlayfs"][name]; k != o {
				t.Errorf("%s:\nkiln      %s\noverlayfs %s", name, k, o)
			}
		}
		for name, want := range map[string]bool{"d/old1": true, "opaque/x": false, "opaque/deep": false, "becomes-dir/inside": true, "hard1": false, "hard2": true, "null": true} {
			if _, have := trees["kiln"][name]; have != want {
				t.Errorf("%s is there: %v", name, have)
			}
		}
		b.empty()
	})
}

// plainLayer makes a layer of entries; regular files hold their names.
func plainLayer(t *testing.T, headers []tar.Header) v1.Layer {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i, h := range headers {
		h.ModTime = time.Unix(1_500_000_000+int64(i), 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		content := strings.Repeat(h.Name, int(h.Size)/len(h.Name)+1)
		if _, err := io.WriteString(w, content[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// tree tells everything about the files below a folder.
func (b *bed) tree(dir string) map[string]string {
	b.Helper()
	all := map[string]string{}
	b.must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		said := fmt.Sprintf("mode %o owner %d:%d device %x size %d", st.Mode, st.Uid, st.Gid, st.Rdev, st.Size)
		if made := st.Mtim.Sec > 1_600_000_000; !made { // else it was made while unpacking
			said += fmt.Sprintf(" time %d", st.Mtim.Nano())
		}
		switch {
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			said += fmt.Sprintf(" links %d content %x", st.Nlink, sha256.Sum256(data))
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			said += " to " + to
		}
		list := make([]byte, 4096)
		n, err := unix.Llistxattr(path, list)
		if err != nil {
			return fmt.Errorf("attributes of %s: %w", path, err)
		}
		for _, name := range slices.Sorted(slices.Values(strings.Split(string(list[:n]), "\x00"))) {
			value := make([]byte, 4096)
			if n, err := unix.Lgetxattr(path, name, value); name != "" && err == nil {
				said += fmt.Sprintf(" %s=%q", name, value[:n])
			}
		}
		name, err := filepath.Rel(dir, path)
		all[name] = said
		return err
	}))
	return all
}
