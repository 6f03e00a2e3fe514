package fileop

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/buildkit/solver/pb"
)

const at42 = 42_000_000_000

func TestMkdir(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		tree    string
		do      *pb.FileActionMkDir
		owner   *Owner
		want    string
		wantErr string
	}{
		{name: "plain", do: &pb.FileActionMkDir{Path: "/d", Mode: 0o751, Timestamp: at42}, want: "d751 0:0 d @42"},
		{name: "owner", do: &pb.FileActionMkDir{Path: "d", Mode: 0o700, Timestamp: at42}, owner: &Owner{3, 4}, want: "d700 3:4 d @42"},
		{name: "upper bits of the mode don't count", do: &pb.FileActionMkDir{Path: "d", Mode: 0o7777, Timestamp: at42}, want: "d777 0:0 d @42"},
		{name: "exists", tree: "d700 1:1 d", do: &pb.FileActionMkDir{Path: "d", Mode: 0o755, Timestamp: at42}, owner: &Owner{3, 4}, want: "d700 1:1 d @101"},
		{name: "a file exists", tree: "f600 1:1 d", do: &pb.FileActionMkDir{Path: "d", Mode: 0o755}, want: "f600 1:1 d @101"},
		{name: "no parent", do: &pb.FileActionMkDir{Path: "/a/b", Mode: 0o755}, wantErr: "mkdir /a/b: no such file or directory"},
		{
			name: "parents", tree: "d700 1:1 a", do: &pb.FileActionMkDir{Path: "a/b/c", Mode: 0o711, MakeParents: true, Timestamp: at42}, owner: &Owner{3, 4},
			want: "d700 1:1 a\nd711 3:4 a/b\nd711 3:4 a/b/c @42",
		},
		{name: "parent is a file", tree: "f600 0:0 a", do: &pb.FileActionMkDir{Path: "a/b", MakeParents: true}, want: "f600 0:0 a @101", wantErr: "mkdir /a: not a directory"},
		{name: "root", do: &pb.FileActionMkDir{Path: "/", Mode: 0o700, MakeParents: true}},
		{name: "root without parents", do: &pb.FileActionMkDir{Path: "..", Mode: 0o700}},
		{
			name: "absolute link", tree: "d755 0:0 real\nl 0:0 link -> /real", do: &pb.FileActionMkDir{Path: "link/d", Mode: 0o755, Timestamp: at42},
			want: "l 0:0 link @102 -> /real\nd755 0:0 real\nd755 0:0 real/d @42",
		},
		{
			name: "links upwards", tree: "d755 0:0 a\nl 0:0 a/up -> ../../../..", do: &pb.FileActionMkDir{Path: "a/up/d", Mode: 0o755, Timestamp: at42},
			want: "d755 0:0 a @101\nl 0:0 a/up @102 -> ../../../..\nd755 0:0 d @42",
		},
		{
			name: "link to nothing", tree: "l 0:0 link -> /x/y", do: &pb.FileActionMkDir{Path: "link/d", Mode: 0o755, MakeParents: true, Timestamp: at42},
			want: "l 0:0 link @101 -> /x/y\nd755 0:0 x\nd755 0:0 x/y\nd755 0:0 x/y/d @42",
		},
		{name: "loop", tree: "l 0:0 l -> l", do: &pb.FileActionMkDir{Path: "l/d", Mode: 0o755, MakeParents: true}, want: "l 0:0 l @101 -> l", wantErr: "resolve /l/d: too many levels of symbolic links"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tree, root := grow(t, c.tree)
			err := tree.Mkdir(c.do, c.owner)
			if c.wantErr != "" {
				fails(t, err, c.wantErr)
			} else if err != nil {
				t.Error(err)
			}
			same(t, show(t, root), c.want)
			alone(t, root)
		})
	}
}

// alone checks that nothing is beside the root.
func alone(t *testing.T, root string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(root))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("beside the root there are %v", entries)
	}
}

func TestMkfile(t *testing.T) {
	t.Parallel()
	file := func(p string) *pb.FileActionMkFile {
		return &pb.FileActionMkFile{Path: p, Mode: 0o640, Data: []byte("new"), Timestamp: at42}
	}
	for _, c := range []struct {
		name    string
		tree    string
		path    string
		owner   *Owner
		want    string
		wantErr string
	}{
		{name: "plain", path: "/f", want: "f640 0:0 f @42 new"},
		{name: "owner", path: "f", owner: &Owner{5, 6}, want: "f640 5:6 f @42 new"},
		{name: "file", tree: "f600 1:1 f older content", path: "f", want: "f640 0:0 f @42 new"},
		{name: "hard link", tree: "f600 1:1 a content\nh a => b", path: "b", want: "f600 1:1 a @101 content\nf640 0:0 b @42 new"},
		{name: "pipe", tree: "p600 1:1 f", path: "f", want: "f640 0:0 f @42 new"},
		{name: "socket", tree: "s600 1:1 f", path: "f", want: "f640 0:0 f @42 new"},
		{name: "through a link", tree: "l 0:0 f -> /target", path: "f", want: "l 0:0 f @101 -> /target\nf640 0:0 target @42 new"},
		{name: "through a link upwards", tree: "l 0:0 f -> ../../../target", path: "f", want: "l 0:0 f @101 -> ../../../target\nf640 0:0 target @42 new"},
		{name: "directory", tree: "d755 0:0 d", path: "d", want: "d755 0:0 d @101", wantErr: "mkfile /d: is a directory"},
		{name: "no parent", path: "/a/f", wantErr: "mkfile /a/f: no such file or directory"},
		{name: "parent is a file", tree: "f600 0:0 a", path: "/a/f", want: "f600 0:0 a @101", wantErr: "mkfile /a/f: not a directory"},
		{name: "root", path: "/", wantErr: "mkfile /: is a directory"},
		{name: "nothing", path: "", wantErr: "mkfile /: is a directory"},
		{name: "above the root", path: "/..", wantErr: "mkfile /: is a directory"},
		{name: "nul", path: "a\x00b", wantErr: "mkfile /a\x00b: invalid argument"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tree, root := grow(t, c.tree)
			err := tree.Mkfile(file(c.path), c.owner)
			if c.wantErr != "" {
				fails(t, err, c.wantErr)
			} else if err != nil {
				t.Error(err)
			}
			same(t, show(t, root), c.want)
			alone(t, root)
		})
	}
}

func TestSymlink(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		tree     string
		old, new string
		want     string
		wantErr  string
	}{
		{name: "plain", old: "any/thing", new: "/l", want: "l 7:8 l @42 -> any/thing"},
		{name: "target is kept", old: "/../a//b/", new: "l", want: "l 7:8 l @42 -> /../a//b/"},
		{name: "exists", tree: "f600 0:0 f", old: "x", new: "f", want: "f600 0:0 f @101", wantErr: "symlink /f: file exists"},
		{name: "through a link", tree: "l 0:0 l -> there", old: "x", new: "l", want: "l 0:0 l @101 -> there\nl 7:8 there @42 -> x"},
		{name: "no parent", old: "x", new: "a/l", wantErr: "symlink /a/l: no such file or directory"},
		{name: "root", old: "x", new: "/", wantErr: "symlink /: file exists"},
		{name: "empty target", old: "", new: "l", wantErr: "symlink /l: no such file or directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tree, root := grow(t, c.tree)
			err := tree.Symlink(&pb.FileActionSymlink{Oldpath: c.old, Newpath: c.new, Timestamp: at42}, &Owner{7, 8})
			if c.wantErr != "" {
				fails(t, err, c.wantErr)
			} else if err != nil {
				t.Error(err)
			}
			same(t, show(t, root), c.want)
			alone(t, root)
		})
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	const tree = `
		d755 0:0 d
		d755 0:0 d/sub
		f644 0:0 d/sub/f x
		f644 0:0 d/g x
		f644 0:0 f x
		l 0:0 link -> d
		l 0:0 dangling -> none
		l 0:0 out -> ../../../../..`
	all := split("dangling\nd\nd/g\nd/sub\nd/sub/f\nf\nlink\nout")
	for _, c := range []struct {
		name    string
		do      *pb.FileActionRm
		gone    []string
		wantErr string
	}{
		{name: "file", do: &pb.FileActionRm{Path: "f"}, gone: []string{"f"}},
		{name: "directory", do: &pb.FileActionRm{Path: "/d/"}, gone: []string{"d", "d/g", "d/sub", "d/sub/f"}},
		{name: "link itself", do: &pb.FileActionRm{Path: "link"}, gone: []string{"link"}},
		{name: "dangling link", do: &pb.FileActionRm{Path: "dangling"}, gone: []string{"dangling"}},
		{name: "through a link", do: &pb.FileActionRm{Path: "link/sub"}, gone: []string{"d/sub", "d/sub/f"}},
		{name: "link out", do: &pb.FileActionRm{Path: "out"}, gone: []string{"out"}},
		{name: "through a link out", do: &pb.FileActionRm{Path: "out/f"}, gone: []string{"f"}},
		{name: "missing", do: &pb.FileActionRm{Path: "x"}, wantErr: "rm /x: no such file or directory"},
		{name: "missing allowed", do: &pb.FileActionRm{Path: "x", AllowNotFound: true}},
		{name: "below a file", do: &pb.FileActionRm{Path: "f/x"}, wantErr: "rm /f/x: not a directory"},
		{name: "below a file allowed", do: &pb.FileActionRm{Path: "f/x", AllowNotFound: true}},
		{name: "wildcard", do: &pb.FileActionRm{Path: "*/g", AllowWildcard: true}, gone: []string{"d/g"}},
		{name: "wildcard for all", do: &pb.FileActionRm{Path: "*", AllowWildcard: true}, gone: all},
		{name: "wildcard for none", do: &pb.FileActionRm{Path: "q*", AllowWildcard: true}},
		{name: "wildcard below nothing", do: &pb.FileActionRm{Path: "q/*", AllowWildcard: true}, wantErr: "lstat /q: no such file or directory"},
		{name: "wildcard below nothing allowed", do: &pb.FileActionRm{Path: "q/*", AllowWildcard: true, AllowNotFound: true}},
		{name: "wildcard below a link", do: &pb.FileActionRm{Path: "link/*", AllowWildcard: true}},
		{name: "bad pattern", do: &pb.FileActionRm{Path: "[", AllowWildcard: true}, wantErr: `invalid pattern "[": syntax error in pattern`},
		{name: "no pattern", do: &pb.FileActionRm{Path: "*"}, wantErr: "rm /*: no such file or directory"},
		{name: "root", do: &pb.FileActionRm{Path: "/", AllowNotFound: true}, wantErr: `cannot remove "/": invalid empty path`},
		{name: "empty", do: &pb.FileActionRm{Path: ""}, wantErr: `cannot remove "/": invalid empty path`},
		{name: "dot", do: &pb.FileActionRm{Path: "."}, wantErr: `cannot remove "/": invalid empty path`},
		{name: "above the root", do: &pb.FileActionRm{Path: "../.."}, wantErr: `cannot remove "/": invalid empty path`},
		{name: "root as a pattern", do: &pb.FileActionRm{Path: "/", AllowWildcard: true}, wantErr: `cannot remove "/": invalid empty path`},
		{name: "dots after a link", do: &pb.FileActionRm{Path: "out/../.."}, wantErr: `cannot remove "/": invalid empty path`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fs, root := grow(t, tree)
			err := fs.Remove(c.do)
			if c.wantErr != "" {
				fails(t, err, c.wantErr)
			} else if err != nil {
				t.Error(err)
			}
			gone := map[string]bool{}
			for _, p := range c.gone {
				gone[p] = true
			}
			for _, p := range all {
				if _, err := os.Lstat(filepath.Join(root, p)); (err != nil) != gone[p] {
					t.Errorf("%s: %v, want it gone: %v", p, err, gone[p])
				}
			}
			alone(t, root)
		})
	}
}
