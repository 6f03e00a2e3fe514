package checksum

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

// spec makes trees from lines: "dir/", "file=content", "link->target",
// "hard=>path".
func spec(t *testing.T, lines ...string) string {
	t.Helper()
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	for _, l := range lines {
		if name, target, ok := strings.Cut(l, "->"); ok {
			must(t, os.Symlink(target, filepath.Join(root, name)))
		} else if name, old, ok := strings.Cut(l, "=>"); ok {
			must(t, os.Link(filepath.Join(root, old), filepath.Join(root, name)))
		} else if name, content, ok := strings.Cut(l, "="); ok {
			must(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
		} else {
			must(t, os.Mkdir(filepath.Join(root, l), 0o755))
		}
	}
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, tree *Tree, s Selector) digest.Digest {
	t.Helper()
	d, err := tree.selected(t, s)
	must(t, err)
	return d
}

// selected is the digest of one selector alone, not that of a list of one.
func (t *Tree) selected(tb testing.TB, s Selector) (digest.Digest, error) {
	r := &reader{ctx: tb.Context(), mount: t.mount}
	defer r.close()
	found, err := choose(r, t.root, s)
	if err != nil {
		return "", err
	}
	if err := r.hash(unhashed([]selection{found})); err != nil {
		return "", err
	}
	return digest.Digest(found.sum().text()), nil
}

const (
	data0 = "sha256:cd8e75bca50f2d695f220d0cb0997d8ead387e4f926e8669a92d7f104cc9885b"
	data1 = "sha256:c2b5e234f5f38fc5864da7def04782f82501a40d46192e4207d5b3f0c3c4732b"
	dirD0 = "sha256:d47454417d2c554067fbefe5f5719edc49f3cfe969c36b62e34a187a4da0cc9a"
	none  = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// TestGolden has digests that are known to be BuildKit's.
func TestGolden(t *testing.T) {
	t.Parallel()
	basic := []string{"foo=data0", "bar=data1", "d0", "d0/abc=data0", "d0/def->abc", "d0/ghi->nosuchfile"}
	wild := []string{
		"bar=data1", "foo=data0", "fox=data2", "x", "x/d0", "x/d0/abc=data0", "x/d0/def->abc",
		"x/d0/ghi->nosuchfile", "y1->foo", "y2->fox",
	}
	links := []string{"target=data0", "sym->target", "sym2->target2", "foo", "foo/ghi->target", "y1->foo/ghi"}
	deep := []string{
		"prefix", "prefix/a", "prefix/a/b", "prefix/a/b/c", "prefix/a/b/c/foo", "prefix/a/b/c/foo/bar=abc",
	}
	const sym = "sha256:a2ba571981f48ec34eb79c9a3ab091b6491e825c2f7e9914ea86e8e958be7fae"
	const symDir = "sha256:9b761577efcb1239cf4be971914c5d7404914dd32ff436401af1764dc5446b83"
	const doubleStar = "sha256:aa7448215bbf5b837b35ce64467857d8b9747965573d14d4b31b370586370971"
	for _, c := range []struct {
		name string
		tree []string
		sel  Selector
		want digest.Digest
	}{
		{"file", basic, Selector{Path: "foo", FollowLinks: true}, data0},
		{"other file", basic, Selector{Path: "bar", FollowLinks: true}, data1},
		{"nested file", basic, Selector{Path: "d0/abc"}, data0},
		{"followed link", basic, Selector{Path: "d0/def", FollowLinks: true}, data0},
		{"root", basic, Selector{Path: "/", FollowLinks: true}, "sha256:427c9cf9ae98c0f81fb57a3076b965c7c149b6b0a85625ad4e884236649a42c6"},
		{"directory", basic, Selector{Path: "d0", FollowLinks: true}, dirD0},
		{"wildcard, many", wild, Selector{Path: "f*", Wildcard: true}, "sha256:0b6731924f0a32a812bf8a729202e55e54ded331f9e4ff2397f681e43694e086"},
		{"wildcard, directory", wild, Selector{Path: "x/d?", Wildcard: true}, "sha256:6b612ad5c13159112ae26357ef7bd34df29916941ba40ec2ce38dfb70c6c60c3"},
		{"wildcard to one of the same name", wild, Selector{Path: "x/d?/def", Wildcard: true, FollowLinks: true}, data0},
		{"wildcard, links", wild, Selector{Path: "y*", Wildcard: true, FollowLinks: true}, "sha256:982153600b9653a1decb0f961e09e2bc1be335cfcaac9b39dbd1120b65fdf92c"},
		{"wildcard, none", wild, Selector{Path: "q*", Wildcard: true}, none},
		{"link", links, Selector{Path: "sym"}, sym},
		{"link as wildcard", links, Selector{Path: "sym", Wildcard: true}, sym},
		{"the same link elsewhere", links, Selector{Path: "foo/ghi"}, sym},
		{"broken link in a directory", links, Selector{Path: "foo", FollowLinks: true}, symDir},
		{"that as a wildcard", links, Selector{Path: "fo?", Wildcard: true, FollowLinks: true}, "sha256:2797e710c6d1a89ff2d91c834b828b1dc500f2982430a58241df8e146f4c4bb4"},
		{"excluding nothing", links, Selector{Path: "foo", FollowLinks: true, Exclude: []string{"*.git"}}, symDir},
		{"include below", deep, Selector{Path: "prefix/a", Include: []string{"**/foo/**", "**/report"}}, doubleStar},
		{"include below, wildcard", deep, Selector{Path: "prefix/a", Wildcard: true, Include: []string{"**/foo", "**/report"}}, doubleStar},
		{"exclude that doesn't match", []string{"test", "test/foo=data0"}, Selector{Path: "test", Exclude: []string{"*.git"}}, "sha256:8f36dfd60011a21345427f4d3177b1223e11fbb732c18dd07cd8b2a27a0b53ca"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := get(t, New(spec(t, c.tree...)), c.sel); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestNewHashWithContent(t *testing.T) {
	t.Parallel()
	h := NewHash(Entry{Mode: 0o644, Size: 5})
	io.WriteString(h, "data0")
	if got := digest.NewDigest(digest.SHA256, h); got != data0 {
		t.Errorf("got %s, want %s", got, data0)
	}
}
