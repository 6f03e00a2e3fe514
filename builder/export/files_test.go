package export

import (
	"archive/tar"
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/session/filesync"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/builder/layer"
)

// dirClient opens a session that takes output 0 as a directory.
func (e *env) dirClient(t *testing.T, dir string) string {
	return e.client(t, filesync.NewFSSyncTarget(filesync.WithFSSyncDir(0, dir)))
}

func TestLocal(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.layer(t, e.layer(t, nil, map[string]string{"a": "1", "dir/b": "2"}), map[string]string{"a": "new", "empty/": ""})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "mine"), "stays")
	out := e.mustExport(t, Target{Type: "local", Session: e.dirClient(t, dir)}, single(l))
	wantFiles(t, dir, map[string]string{"a": "new", "dir/b": "2", "mine": "stays"})
	if fi, err := os.Stat(filepath.Join(dir, "empty")); err != nil || !fi.IsDir() {
		t.Error(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "a")); err != nil || !fi.ModTime().Equal(made) {
		t.Errorf("%v %v", fi.ModTime(), err)
	}
	if len(out.Response) != 0 {
		t.Errorf("response %v", out.Response)
	}
	e.events.check(t, "copying files")
}

func TestLocalScratch(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	dir := t.TempDir()
	e.mustExport(t, Target{Type: "local", Session: e.dirClient(t, dir)}, single(nil))
	wantFiles(t, dir, map[string]string{})
}

func TestLocalDelete(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	a, b := e.layer(t, nil, map[string]string{"f": "amd64"}), e.layer(t, nil, map[string]string{"f": "arm64"})
	for name, c := range map[string]struct {
		r    Result
		want map[string]string
	}{
		"single": {single(a), map[string]string{"f": "amd64"}},
		"multi":  {multi(a, b), map[string]string{"linux_amd64/f": "amd64", "linux_arm64/f": "arm64"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "old"), "goes")
			write(t, filepath.Join(dir, "linux_amd64/old"), "goes")
			id := e.client(t, filesync.NewFSSyncTarget(filesync.WithFSSyncDirDelete(0, dir)))
			e.mustExport(t, Target{Type: "local", Session: id, Attrs: parse("mode=delete")}, c.r)
			wantFiles(t, dir, c.want)
		})
	}
}

func TestPlatformSplit(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	a := e.layer(t, nil, map[string]string{"bin/amd64": "a", "bin-x": "x", "etc/z": "z"})
	b := e.layer(t, nil, map[string]string{"bin/arm64": "b", "share/y": "y"})
	hostile := multi(a, b)
	hostile.Refs = map[string]*layer.Layer{"../../etc": a, "..": b}
	hostile.Metadata["refs.platforms"] = []byte(`{"Platforms":[{"ID":"../../etc","Platform":{"os":"linux","architecture":"amd64"}},` +
		`{"ID":"..","Platform":{"os":"linux","architecture":"arm64"}}]}`)
	for name, c := range map[string]struct {
		r     Result
		attrs string
		want  map[string]string
	}{
		"together": {multi(a, b), "platform-split=false", map[string]string{
			"bin/amd64": "a", "bin-x": "x", "etc/z": "z", "bin/arm64": "b", "share/y": "y"}},
		"apart": {multi(a, b), "", map[string]string{
			"linux_amd64/bin/amd64": "a", "linux_amd64/bin-x": "x", "linux_amd64/etc/z": "z",
			"linux_arm64/bin/arm64": "b", "linux_arm64/share/y": "y"}},
		"single in a directory": {with(single(b), "containerimage.config", `{"os":"linux","architecture":"arm","variant":"v7"}`),
			"platform-split=true", map[string]string{"linux_arm_v7/bin/arm64": "b", "linux_arm_v7/share/y": "y"}},
		"hostile ids": {hostile, "", map[string]string{
			".._.._etc/bin/amd64": "a", ".._.._etc/bin-x": "x", ".._.._etc/etc/z": "z", "__/bin/arm64": "b", "__/share/y": "y"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			e.mustExport(t, Target{Type: "local", Session: e.dirClient(t, dir), Attrs: parse(c.attrs)}, c.r)
			wantFiles(t, dir, c.want)
			id, file := e.fileClient(t)
			e.mustExport(t, Target{Type: "tar", Session: id, Attrs: parse(c.attrs)}, c.r)
			dir = t.TempDir()
			untar(t, file.Bytes(), dir)
			wantFiles(t, dir, c.want)
		})
	}
}

func TestPlatformsThatClash(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	a := e.layer(t, nil, map[string]string{"dir/f": "a"})
	ids := multi(a, a)
	ids.Refs = map[string]*layer.Layer{"a/b": a, "a:b": a}
	ids.Metadata["refs.platforms"] = []byte(`{"Platforms":[{"ID":"a/b","Platform":{"os":"linux","architecture":"amd64"}},` +
		`{"ID":"a:b","Platform":{"os":"linux","architecture":"arm64"}}]}`)
	for name, c := range map[string]struct {
		r           Result
		attrs, want string
	}{
		"file and file": {multi(a, e.layer(t, nil, map[string]string{"dir/f": "b"})), "platform-split=false",
			"cannot overwrite dir/f from linux/amd64 with linux/arm64 when split option is disabled"},
		"file and directory": {multi(a, e.layer(t, nil, map[string]string{"dir": "file"})), "platform-split=false",
			"cannot overwrite dir from linux/amd64"},
		"directories": {ids, "", `platforms "a/b" and "a:b" would both get the directory a_b`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := e.export(t, Target{Type: "local", Session: e.dirClient(t, t.TempDir()), Attrs: parse(c.attrs)}, c.r)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestTar(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.special(t)
	id, file := e.fileClient(t)
	e.mustExport(t, Target{Type: "tar", Session: id, Attrs: parse("source-date-epoch=1700000000")}, single(l))
	types := map[string]byte{}
	for r := tar.NewReader(bytes.NewReader(file.Bytes())); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		types[h.Name] = h.Typeflag
		if h.ModTime.Unix() != 1700000000 {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
		switch h.Name {
		case "link":
			if h.Linkname != "/somewhere/else" {
				t.Errorf("link to %s", h.Linkname)
			}
		case "file":
			if h.Uid != 12 || h.Gid != 34 || h.Mode != 0o4755 || h.PAXRecords["SCHILY.xattr.user.k"] != "v" {
				t.Errorf("%+v", h)
			}
		}
	}
	for name, want := range map[string]byte{"file": tar.TypeReg, "hard": tar.TypeLink, "link": tar.TypeSymlink, "fifo": tar.TypeFifo, "dir/": tar.TypeDir} {
		if types[name] != want {
			t.Errorf("%s has type %c, want %c", name, types[name], want)
		}
	}
	if _, ok := types["socket"]; ok {
		t.Error("a socket was exported")
	}
	e.events.check(t, "sending tarball")
}

// Whatever the tree, both exporters of files come to an end with it.
func TestLocalSpecialFiles(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	dir := t.TempDir()
	e.mustExport(t, Target{Type: "local", Session: e.dirClient(t, dir)}, single(e.special(t)))
	if to, err := os.Readlink(filepath.Join(dir, "link")); err != nil || to != "/somewhere/else" {
		t.Errorf("%s, %v", to, err)
	}
	if fi, err := os.Lstat(filepath.Join(dir, "fifo")); err != nil || fi.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("%v, %v", fi, err)
	}
}

func TestEpochOfEachPlatform(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.layer(t, nil, map[string]string{"f": "1"})
	r := with(with(multi(l, l), "source.date.epoch/linux/amd64", "1000"), "source.date.epoch/linux/arm64", "2000")
	dir := t.TempDir()
	e.mustExport(t, Target{Type: "local", Session: e.dirClient(t, dir)}, r)
	for path, want := range map[string]int64{"linux_amd64/f": 1000, "linux_arm64/f": 2000} {
		if fi, err := os.Stat(filepath.Join(dir, path)); err != nil || fi.ModTime().Unix() != want {
			t.Errorf("%s: %v, %v", path, fi.ModTime(), err)
		}
	}
}

// special is a layer with files of all kinds.
func (e *env) special(t *testing.T) *layer.Layer {
	t.Helper()
	w, err := e.layers.NewWorkspace(e.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := w.Dir(e.ctx)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	write(t, in("file"), "data")
	write(t, in("dir/f"), "data")
	l, err := net.Listen("unix", in("socket"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for _, err := range []error{
		os.Chown(in("file"), 12, 34), os.Chmod(in("file"), os.ModeSetuid|0o755), unix.Setxattr(in("file"), "user.k", []byte("v"), 0),
		os.Link(in("file"), in("hard")), os.Symlink("/somewhere/else", in("link")), unix.Mkfifo(in("fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	special, err := w.Commit(e.ctx, layer.Meta{Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return special
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

// untar writes the regular files of an archive.
func untar(t *testing.T, data []byte, dir string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if !filepath.IsLocal(h.Name) {
			t.Fatalf("the archive has %s", h.Name)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, h.Name), string(text))
	}
}
