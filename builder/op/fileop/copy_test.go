package fileop

import (
	"context"
	"errors"
	"testing"

	"github.com/moby/buildkit/solver/pb"
)

// source is a tree with everything in it.
const source = `
	d750 1:2 d
	f640 3:4 d/f file
	d700 5:6 d/sub
	f6755 7:8 d/sub/g.go gofile
	f600 7:8 d/sub/h other
	f644 0:0 top top file
	l 9:9 link -> d
	l 9:9 d/abs -> /top
	l 9:9 dangling -> none
	p620 1:1 pipe
	s600 1:1 socket
	d755 0:0 e`

// action is a copy as the Dockerfile frontend would ask for, changed by f.
func action(src, dest string, f func(a *pb.FileActionCopy)) *pb.FileActionCopy {
	a := &pb.FileActionCopy{
		Src: src, Dest: dest, Mode: -1, Timestamp: -1,
		FollowSymlink: true, DirCopyContents: true, CreateDestPath: true, AllowWildcard: true, AllowEmptyWildcard: true,
	}
	if f != nil {
		f(a)
	}
	return a
}

// raw is a copy without any option.
func raw(src, dest string) *pb.FileActionCopy {
	return &pb.FileActionCopy{Src: src, Dest: dest, Mode: -1, Timestamp: -1}
}

func TestCopy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		dst     string
		do      *pb.FileActionCopy
		owner   *Owner
		want    string
		wantErr string
	}{
		{name: "file to a name", do: action("top", "/new", nil), want: "f644 0:0 new @106 top file"},
		{name: "file into a new directory", do: action("top", "/new/", nil), want: "d755 0:0 new\nf644 0:0 new/top @106 top file"},
		{name: "file into a directory", dst: "d700 1:1 x", do: action("top", "x", nil), want: "d700 1:1 x\nf644 0:0 x/top @106 top file"},
		{name: "file to a deep name", do: action("top", "a/b/c", nil), owner: &Owner{7, 7}, want: "d755 7:7 a\nd755 7:7 a/b\nf644 7:7 a/b/c @106 top file"},
		{
			name: "contents into a new directory", do: action("d", "/new", nil),
			want: `d755 0:0 new @101
				l 9:9 new/abs @108 -> /top
				f640 3:4 new/f @102 file
				d700 5:6 new/sub @103
				f6755 7:8 new/sub/g.go @104 gofile
				f600 7:8 new/sub/h @105 other`,
		},
		{
			name: "contents, with an owner", do: action("d/sub", "/new", nil), owner: &Owner{20, 30},
			want: "d755 20:30 new @103\nf6755 20:30 new/g.go @104 gofile\nf600 20:30 new/h @105 other",
		},
		{
			name: "contents into a directory", dst: "d711 9:9 x\nd711 9:9 x/sub\nf600 9:9 x/sub/h old\nf600 9:9 x/old old", do: action("d/.", "x", nil),
			want: `d711 9:9 x @101
				l 9:9 x/abs @108 -> /top
				f640 3:4 x/f @102 file
				f600 9:9 x/old @104 old
				d700 5:6 x/sub @103
				f6755 7:8 x/sub/g.go @104 gofile
				f600 7:8 x/sub/h @105 other`,
		},
		{
			name: "directory itself", dst: "d755 9:9 x", do: raw("d/sub", "x"),
			want: "d755 9:9 x\nd700 5:6 x/sub @103\nf6755 7:8 x/sub/g.go @104 gofile\nf600 7:8 x/sub/h @105 other",
		},
		{
			name: "directory to a new name", do: raw("d/sub", "new"),
			want: "d700 5:6 new @103\nf6755 7:8 new/g.go @104 gofile\nf600 7:8 new/h @105 other",
		},
		{
			name: "directory without its name", dst: "d755 9:9 x", do: raw("d/sub/.", "x"),
			want: "d755 9:9 x @103\nf6755 7:8 x/g.go @104 gofile\nf600 7:8 x/h @105 other",
		},
		{name: "empty directory", do: action("e", "new", nil), want: "d755 0:0 new @112"},
		{name: "link is followed", do: action("dangling/../link/f", "new", nil), want: "f640 3:4 new @102 file"},
		{name: "link is kept", do: raw("link", "new"), want: "l 9:9 new @107 -> d"},
		{name: "link to a file is followed to its content", do: action("d/abs", "new", nil), want: "f644 0:0 new @106 top file"},
		{name: "link before the last element", do: raw("link/f", "new"), want: "f640 3:4 new @102 file"},
		{name: "pipe", do: raw("pipe", "new"), want: "p620 1:1 new @110"},
		{name: "socket", do: raw("socket", "new"), want: "f600 1:1 new @111"},
		{name: "time", do: action("d/sub", "a/new", func(a *pb.FileActionCopy) { a.Timestamp = at42 }), want: "d755 0:0 a @42\nd755 0:0 a/new @42\nf6755 7:8 a/new/g.go @42 gofile\nf600 7:8 a/new/h @42 other"},
		{name: "mode", do: action("d/sub", "a/new", func(a *pb.FileActionCopy) { a.Mode = 0o2711 }), want: "d711 0:0 a\nd711 0:0 a/new @103\nf2711 7:8 a/new/g.go @104 gofile\nf2711 7:8 a/new/h @105 other"},
		{name: "symbolic mode", do: action("d", "new", func(a *pb.FileActionCopy) {
			a.ModeStr, a.Mode = "u=rwX,go=rX", 0o600
			a.IncludePatterns = []string{"sub/*"}
		}), want: "d755 0:0 new @101\nd755 5:6 new/sub @103\nf755 7:8 new/sub/g.go @104 gofile\nf644 7:8 new/sub/h @105 other"},
		{name: "bad symbolic mode", do: action("d", "new", func(a *pb.FileActionCopy) { a.ModeStr = "u=q" }), wantErr: `invalid mode "u=q": invalid syntax`},
		{name: "wildcard", do: action("d/*/h*", "new/", nil), want: "d755 0:0 new\nf600 7:8 new/h @105 other"},
		{name: "wildcard for directories", do: action("d/s*", "new/", nil), want: "d755 0:0 new @103\nf6755 7:8 new/g.go @104 gofile\nf600 7:8 new/h @105 other"},
		{name: "wildcard for links", do: action("d/a*", "new/", nil), want: "d755 0:0 new\nf644 0:0 new/abs @106 top file"},
		{name: "wildcard for none", do: action("q*", "new/", nil)},
		{name: "wildcard for none, refused", do: action("q*", "new/", func(a *pb.FileActionCopy) { a.AllowEmptyWildcard = false }), wantErr: "/q* not found"},
		{name: "wildcard below nothing", do: action("q/*", "new/", nil), wantErr: "lstat /q: no such file or directory"},
		{name: "no wildcard", do: raw("d/*", "new"), wantErr: "lstat /d/*: no such file or directory"},
		{name: "bad pattern", do: action("[", "new", nil), wantErr: `invalid pattern "/[": syntax error in pattern`},
		{name: "exclude", do: action("d", "new", func(a *pb.FileActionCopy) { a.ExcludePatterns = []string{"**/*.go", "abs"} }), want: "d755 0:0 new @101\nf640 3:4 new/f @102 file\nd700 5:6 new/sub @103\nf600 7:8 new/sub/h @105 other"},
		{name: "exclude but", do: action("d", "new", func(a *pb.FileActionCopy) { a.ExcludePatterns = []string{"*", "!sub/h"} }), want: "d755 0:0 new @101\nd700 5:6 new/sub @103\nf600 7:8 new/sub/h @105 other"},
		{name: "include", do: action("/", "/", func(a *pb.FileActionCopy) { a.IncludePatterns = []string{"d/*/h"} }), want: "d750 1:2 d @101\nd700 5:6 d/sub @103\nf600 7:8 d/sub/h @105 other"},
		{name: "bad include", do: action("/", "/", func(a *pb.FileActionCopy) { a.IncludePatterns = []string{"["} }), wantErr: `invalid include patterns ["["]: syntax error in pattern`},
		{name: "nothing", do: action("missing", "/", nil), wantErr: "lstat /missing: no such file or directory"},
		{name: "nothing in a file", do: action("top/x", "/", nil), wantErr: "lstat /top/x: not a directory"},
		{name: "dangling link", do: action("dangling", "/", nil), wantErr: "lstat /none: no such file or directory"},
		{name: "above the root", do: action("../../top", "../../new", nil), want: "f644 0:0 new @106 top file"},
		{name: "no parent", do: raw("top", "a/b"), wantErr: "failed to stat a/b: lstat /a: no such file or directory"},
		{name: "file over a file", dst: "f600 9:9 x old", do: action("top", "x", nil), want: "f644 0:0 x @106 top file"},
		{name: "file over a link's target", dst: "l 9:9 x -> /y", do: action("top", "x", nil), want: "l 9:9 x @101 -> /y\nf644 0:0 y @106 top file"},
		{name: "file over a link in a directory", dst: "d755 0:0 x\nl 9:9 x/f -> /y", do: action("d", "x", func(a *pb.FileActionCopy) { a.IncludePatterns = []string{"f"} }), want: "d755 0:0 x @101\nf640 3:4 x/f @102 file"},
		{name: "into a link to a directory", dst: "d755 0:0 y\nl 9:9 x -> /y", do: action("top", "x/", nil), want: "l 9:9 x @102 -> /y\nd755 0:0 y\nf644 0:0 y/top @106 top file"},
		{name: "directory over a file", dst: "d755 0:0 x\nf600 9:9 x/sub old", do: action("d", "x", func(a *pb.FileActionCopy) { a.IncludePatterns = []string{"sub"} }), want: "d755 0:0 x @101\nf600 9:9 x/sub @102 old", wantErr: "cannot copy to non-directory: /x/sub"},
		{name: "directory over a link", dst: "d755 0:0 x\nl 9:9 x/sub -> ..", do: action("d", "x", func(a *pb.FileActionCopy) { a.IncludePatterns = []string{"sub"} }), want: "d755 0:0 x @101\nl 9:9 x/sub @102 -> ..", wantErr: "cannot copy to non-directory: /x/sub"},
		{name: "file over a directory", dst: "d755 0:0 x\nd755 9:9 x/top", do: action("top", "x", nil), want: "d755 0:0 x @101\nd755 9:9 x/top @102", wantErr: "cannot replace to directory /x/top with file"},
		{name: "file over the root", do: func() *pb.FileActionCopy {
			a := raw("top/.", "/")
			a.AlwaysReplaceExistingDestPaths = true
			return a
		}(), wantErr: "cannot replace to directory / with file"},
		{name: "replace", dst: "d755 0:0 x\nf600 9:9 x/sub old\nd755 9:9 x/f\nf600 9:9 x/f/old old\nl 0:0 x/abs -> /", do: action("d", "x", func(a *pb.FileActionCopy) { a.AlwaysReplaceExistingDestPaths = true }),
			want: `d755 0:0 x @101
				l 9:9 x/abs @108 -> /top
				f640 3:4 x/f @102 file
				d700 5:6 x/sub @103
				f6755 7:8 x/sub/g.go @104 gofile
				f600 7:8 x/sub/h @105 other`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			src, srcRoot := grow(t, source)
			dst, dstRoot := grow(t, c.dst)
			before := show(t, srcRoot)
			err := Copy(t.Context(), src, dst, c.do, c.owner)
			if c.wantErr != "" {
				fails(t, err, c.wantErr)
			} else if err != nil {
				t.Error(err)
			}
			if c.wantErr == "" || c.want != "" {
				same(t, show(t, dstRoot), c.want)
			}
			if after := show(t, srcRoot); after != before {
				t.Errorf("the source has become\n%s", after)
			}
			alone(t, dstRoot)
		})
	}
}

func TestCopyHardLinks(t *testing.T) {
	t.Parallel()
	src, _ := grow(t, "d755 0:0 d\nf644 1:1 d/a content\nh d/a => d/b\nd755 0:0 d/sub\nh d/a => d/sub/c\nf600 0:0 d/z z\nh d/z => outside")
	dst, root := grow(t, "d755 0:0 x\nf600 0:0 x/b old")
	must(t, Copy(t.Context(), src, dst, action("d", "x", nil), nil))
	same(t, show(t, root), `
		d755 0:0 x @101
		f644 1:1 x/a @102 content
		h x/a => x/b
		d755 0:0 x/sub @103
		h x/a => x/sub/c
		f600 0:0 x/z @104 z`)
}

// TestCopyHardLinksOfMatches has two names of a file in two matches, and
// between them another file of the first one's name.
func TestCopyHardLinksOfMatches(t *testing.T) {
	t.Parallel()
	src, _ := grow(t, "d755 0:0 a\nf644 1:1 a/f one\nd755 0:0 b\nf644 0:0 b/f two\nd755 0:0 c\nh a/f => c/g")
	dst, root := grow(t, "d755 0:0 x")
	must(t, Copy(t.Context(), src, dst, action("*/*", "x/", nil), nil))
	same(t, show(t, root), "d755 0:0 x\nf644 0:0 x/f @104 two\nf644 1:1 x/g @102 one")
}

func TestCopyCancelled(t *testing.T) {
	t.Parallel()
	src, _ := grow(t, source)
	dst, _ := grow(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Copy(ctx, src, dst, action("/", "/", nil), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
