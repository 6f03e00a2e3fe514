package frontend

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// plant makes a tree with all kinds of files, beside a file that nobody may see.
func plant(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	when := time.Unix(1000, 5)
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "outside"), []byte("secret"), 0o644),
		os.MkdirAll(filepath.Join(root, "d"), 0o750),
		os.WriteFile(filepath.Join(root, "d", "f"), []byte("0123456789"), 0o640),
		os.Chtimes(filepath.Join(root, "d", "f"), when, when),
		os.Chown(filepath.Join(root, "d", "f"), 7, 8),
		unix.Lsetxattr(filepath.Join(root, "d", "f"), "user.a", []byte("x"), 0),
		os.Symlink("d/f", filepath.Join(root, "relative")),
		os.Symlink("/../../d/f", filepath.Join(root, "absolute")),
		os.Symlink("../outside", filepath.Join(root, "up")),
		os.Symlink("..", filepath.Join(root, "d", "out")),
		os.Symlink("loop", filepath.Join(root, "loop")),
		unix.Mkfifo(filepath.Join(root, "pipe"), 0o644),
		unix.Mknod(filepath.Join(root, "device"), unix.S_IFCHR|0o666, int(unix.Mkdev(5, 300))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func open(t *testing.T, dir string, links linkRule) files {
	t.Helper()
	f, err := openFiles(dir, links)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}

func TestReadFiles(t *testing.T) {
	t.Parallel()
	root := plant(t)
	inRoot, beneath := open(t, root, linksInRoot), open(t, root, linksBeneath)
	const content = "0123456789"
	span := func(offset, length int) *gwclient.FileRange {
		return &gwclient.FileRange{Offset: offset, Length: length}
	}
	for _, c := range []struct {
		name    string
		rng     *gwclient.FileRange
		in      string // what a tree that is the root gives
		beneath string // and one that is not; "" for an error
	}{
		{"d/f", nil, content, content},
		{"/d/../d/./f", nil, content, content},
		{"../../d/f", nil, content, content},
		{"relative", nil, content, content},
		{"absolute", nil, content, ""},
		{"d/out/d/f", nil, content, content},
		{"up", nil, "", ""},
		{"loop", nil, "", ""},
		{"", nil, "", ""},
		{"d", nil, "", ""},
		{"d/f/x", nil, "", ""},
		{"pipe", nil, "", ""},
		{"device", nil, "", ""},
		{"d/f", span(2, 3), "234", "234"},
		{"d/f", span(8, 0), "89", "89"},
		{"d/f", span(8, 1<<62), "89", "89"},
		{"d/f", span(-1, 1), "", ""},
		{"d/f", span(1, -1), "", ""},
	} {
		for f, want := range map[files]string{inRoot: c.in, beneath: c.beneath} {
			got, err := f.read(gwclient.ReadRequest{Filename: c.name, Range: c.rng})
			if string(got) != want || (err == nil) != (want != "") {
				t.Errorf("%s %v: got %q, %v; want %q", c.name, c.rng, got, err, want)
			}
			if err != nil && strings.Contains(err.Error(), root) {
				t.Errorf("%s: the error tells a path of the host: %v", c.name, err)
			}
		}
	}
	if got, err := inRoot.read(gwclient.ReadRequest{Filename: "d/f", Range: span(100, 5)}); err != nil || len(got) != 0 {
		t.Errorf("behind the end: %q, %v", got, err)
	}
	if _, err := inRoot.read(gwclient.ReadRequest{Filename: "absent"}); !errors.Is(err, fs.ErrNotExist) || err.Error() != "open absent: no such file or directory" {
		t.Errorf("absent: %v", err)
	}
	for _, name := range []string{"pipe", "device"} {
		if _, err := inRoot.read(gwclient.ReadRequest{Filename: name}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadHugeFile(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(root, "f"), nil, 0o644), os.Truncate(filepath.Join(root, "f"), 1<<40)); err != nil {
		t.Fatal(err)
	}
	f := open(t, root, linksInRoot)
	for _, rng := range []*gwclient.FileRange{nil, {Length: 1 << 30}} {
		if _, err := f.read(gwclient.ReadRequest{Filename: "f", Range: rng}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", rng, err)
		}
	}
	got, err := f.read(gwclient.ReadRequest{Filename: "f", Range: &gwclient.FileRange{Offset: 1 << 39, Length: maxFile}})
	if err != nil || len(got) != maxFile {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestStatFiles(t *testing.T) {
	t.Parallel()
	root := plant(t)
	f := open(t, root, linksBeneath)
	st, err := f.lstat("/d/f")
	if err != nil {
		t.Fatal(err)
	}
	if st.Path != "f" || fs.FileMode(st.Mode) != 0o640 || st.Uid != 7 || st.Gid != 8 || st.Size != 10 ||
		st.ModTime != time.Unix(1000, 5).UnixNano() || string(st.Xattrs["user.a"]) != "x" || st.Linkname != "" {
		t.Errorf("file %v", st)
	}
	for name, want := range map[string]fs.FileMode{
		"": fs.ModeDir | 0o750, "/": fs.ModeDir | 0o750, "..": fs.ModeDir | 0o750, "d": fs.ModeDir | 0o750,
		"relative": fs.ModeSymlink | 0o777, "pipe": fs.ModeNamedPipe | 0o644, "device": fs.ModeDevice | fs.ModeCharDevice | 0o644,
	} {
		st, err := f.lstat(name)
		if err != nil || fs.FileMode(st.Mode) != want {
			t.Errorf("%q: %v, %v", name, st, err)
		}
		if st.GetMode()&uint32(fs.ModeDir) != 0 && st.Size != 0 {
			t.Errorf("%q has size %d", name, st.Size)
		}
	}
	if st, err := f.lstat("device"); err != nil || st.Devmajor != 5 || st.Devminor != 300 {
		t.Errorf("device %v, %v", st, err)
	}
	for name, want := range map[string]string{"relative": "", "absolute": "/../../d/f", "up": "../outside"} {
		st, err := f.stat(name)
		if err != nil || st.Linkname != want || st.Path != name || st.Size != 10 { // so long are all
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	for _, name := range []string{"absent", "loop", "d/f/x"} {
		if st, err := f.stat(name); err == nil {
			t.Errorf("%s: %v", name, st)
		}
	}
}

func TestListFiles(t *testing.T) {
	t.Parallel()
	root := plant(t)
	f := open(t, root, linksInRoot)
	names := func(req gwclient.ReadDirRequest) []string {
		t.Helper()
		list, err := f.list(req)
		if err != nil {
			t.Error(err)
		}
		var names []string
		for _, st := range list {
			names = append(names, st.Path)
		}
		return names
	}
	all := []string{"absolute", "d", "device", "loop", "pipe", "relative", "up"}
	for _, req := range []gwclient.ReadDirRequest{{}, {Path: "/"}, {Path: "../.."}, {Path: "d/out"}} {
		if got := names(req); !slices.Equal(got, all) {
			t.Errorf("%v: %v", req, got)
		}
	}
	if got := names(gwclient.ReadDirRequest{IncludePattern: "*e"}); !slices.Equal(got, []string{"absolute", "device", "pipe", "relative"}) {
		t.Errorf("pattern: %v", got)
	}
	if _, err := f.list(gwclient.ReadDirRequest{IncludePattern: "["}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad pattern: %v", err)
	}
	for _, p := range []string{"absent", "d/f", "up"} {
		if list, err := f.list(gwclient.ReadDirRequest{Path: p}); err == nil {
			t.Errorf("%s: %v", p, list)
		}
	}
}

// TestRacingLinks reads through a directory that somebody else keeps swapping
// with a link that leads out of the tree.
func TestRacingLinks(t *testing.T) {
	t.Parallel()
	root := plant(t)
	for _, err := range []error{
		os.WriteFile(filepath.Join(root, "d", "outside"), []byte("harmless"), 0o644),
		os.Symlink("..", filepath.Join(root, "swap")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-done }()
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, "d"), unix.AT_FDCWD, filepath.Join(root, "swap"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	for _, links := range []linkRule{linksInRoot, linksBeneath} {
		f := open(t, root, links)
		for range 2000 {
			got, err := f.read(gwclient.ReadRequest{Filename: "d/outside"})
			if err == nil && string(got) != "harmless" {
				t.Fatalf("read %q", got)
			}
			if list, err := f.list(gwclient.ReadDirRequest{Path: "swap"}); err == nil && slices.ContainsFunc(list, func(st *fstypes.Stat) bool { return st.Path == "root" }) {
				t.Fatal("listed the directory around the tree")
			}
		}
	}
}
