package checksum

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestMissing(t *testing.T) {
	t.Parallel()
	tree := New(spec(t, "d", "d/f=x", "loop->loop", "broken->none"))
	for _, c := range []struct {
		sel  Selector
		want string
	}{
		{Selector{Path: "missing"}, `"/missing": not found`},
		{Selector{Path: "d/missing/"}, `"/d/missing": not found`},
		{Selector{Path: "../missing"}, `"/missing": not found`},
		{Selector{Path: "d/f/g"}, `"/d/f/g": not found`},
		{Selector{Path: "broken", FollowLinks: true}, `"/broken": not found`},
		{Selector{Path: "b*", Wildcard: true, FollowLinks: true}, `"/broken": not found`},
		{Selector{Path: "d", Include: []string{"g"}, Required: []string{"/d/g"}}, `"/d/g": not found`},
		{Selector{Path: "loop", FollowLinks: true}, `"/loop": too many links`},
		{Selector{Path: "[", Wildcard: true}, `invalid pattern "[": syntax error in pattern`},
		{Selector{Path: "d", Include: []string{"["}}, `invalid include patterns ["["]: syntax error in pattern`},
		{Selector{Path: "d", Exclude: []string{"!"}}, `invalid exclude patterns ["!"]: illegal exclusion pattern: "!"`},
	} {
		_, err := tree.Digest(t.Context(), []Selector{c.sel})
		if err == nil || err.Error() != c.want {
			t.Errorf("%+v: got %v, want %s", c.sel, err, c.want)
		}
		if want := "not found"; len(c.want) > len(want) && c.want[len(c.want)-len(want):] == want && !errdefs.IsNotFound(err) {
			t.Errorf("%+v: the error is no ErrNotFound", c.sel)
		}
	}
	if _, err := tree.Digest(t.Context(), []Selector{{Path: "d", Include: []string{"f"}, Required: []string{"/d/f"}}}); err != nil {
		t.Error(err)
	}
}

func TestOrderAndRepetitionOfSelectors(t *testing.T) {
	t.Parallel()
	tree := New(spec(t, "a=1", "b=2"))
	one, err := tree.Digest(t.Context(), []Selector{{Path: "a"}, {Path: "b"}, {Path: "/a"}})
	must(t, err)
	other, err := tree.Digest(t.Context(), []Selector{{Path: "/b/"}, {Path: "a"}})
	must(t, err)
	if one != other {
		t.Errorf("%s and %s differ", one, other)
	}
	all, err := tree.Digest(t.Context(), nil)
	must(t, err)
	if root, err := tree.Digest(t.Context(), []Selector{{Path: "/"}}); err != nil || root != all {
		t.Errorf("no selector gives %s, the root %s (%v)", all, root, err)
	}
}

// TestLinksStayInside has links that lead out of the tree, were they followed
// outside of it.
func TestLinksStayInside(t *testing.T) {
	t.Parallel()
	root := spec(t, "etc", "etc/hostname=inside", "abs->/etc/hostname", "up->../../../../../../etc/hostname",
		"sub", "sub/dir->../../../../etc", "rootlink->/")
	tree := New(root)
	want := get(t, tree, Selector{Path: "/etc/hostname"})
	for _, p := range []string{"abs", "up", "sub/dir/hostname", "rootlink/rootlink/abs", "../../etc/hostname", "rootlink/../../etc/hostname"} {
		if got := get(t, tree, Selector{Path: p, FollowLinks: true}); got != want {
			t.Errorf("%s: got %s, want %s", p, got, want)
		}
	}
}

// TestReadsOnlyWhatCounts makes unselected things unreadable by removing them
// behind the tree's back.
func TestReadsOnlyWhatCounts(t *testing.T) {
	t.Parallel()
	root := spec(t, "d", "d/keep=1", "d/gone=2", "other", "other/gone=3", "other/sub")
	reads := 0
	tree := NewLazy(func(context.Context) (string, func(), error) {
		reads++
		return root, func() { reads += 100 }, nil
	})
	first := get(t, tree, Selector{Path: "d", Include: []string{"keep"}})
	must(t, os.RemoveAll(filepath.Join(root, "other")))
	must(t, os.Remove(filepath.Join(root, "d/gone")))
	if again := get(t, tree, Selector{Path: "d", Include: []string{"keep"}}); again != first {
		t.Errorf("%s became %s", first, again)
	}
	if reads != 101 {
		t.Errorf("mounted and released %d times, want once", reads)
	}
	if _, err := tree.Digest(t.Context(), []Selector{{Path: "d/gone"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was only listed has been read: %v", err)
	}
	var p *fs.PathError
	if _, err := tree.Digest(t.Context(), nil); !errors.As(err, &p) || p.Path != "/other" {
		t.Errorf("got %v, want an error about /other", err)
	}
}

func TestSpecialFiles(t *testing.T) {
	t.Parallel()
	root := spec(t, "a", "b")
	for _, dir := range []string{"a", "b"} {
		must(t, unix.Mkfifo(filepath.Join(root, dir, "pipe"), 0o644))
	}
	tree := New(root)
	if a, b := get(t, tree, Selector{Path: "a"}), get(t, tree, Selector{Path: "b"}); a != b {
		t.Errorf("equal pipes: %s, %s", a, b)
	}
	if err := unix.Mknod(filepath.Join(root, "b/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err == nil {
		must(t, unix.Mknod(filepath.Join(root, "a/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
		tree = New(root)
		if get(t, tree, Selector{Path: "a/null"}) == get(t, tree, Selector{Path: "b/null"}) {
			t.Error("different devices have one digest")
		}
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	tree := New(spec(t, "a=1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tree.Digest(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := tree.Digest(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	var lines []string
	for i := range 50 {
		lines = append(lines, fmt.Sprintf("d%d", i), fmt.Sprintf("d%d/f=%d", i, i))
	}
	tree := New(spec(t, lines...))
	want := get(t, New(spec(t, lines...)), Selector{})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := tree.Digest(t.Context(), []Selector{{Path: fmt.Sprintf("d%d", i)}, {Path: "d*", Wildcard: true}, {}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := get(t, tree, Selector{}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNoFilesAtHand(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	tree := NewLazy(func(context.Context) (string, func(), error) { return "", nil, boom })
	if _, err := tree.Digest(t.Context(), nil); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
}

// large is a complete tree of 20,000 files.
func large(tb testing.TB) *Tree {
	var entries []Entry
	for i := range 200 {
		dir := fmt.Sprintf("some/where/dir%d", i)
		entries = append(entries, Entry{Path: dir, Mode: fs.ModeDir | 0o755})
		for j := range 100 {
			entries = append(entries, Entry{
				Path: fmt.Sprintf("%s/file%d.go", dir, j), Mode: 0o644, Size: 1, Digest: data0,
			})
		}
	}
	entries = append(entries, Entry{Path: "some", Mode: fs.ModeDir | 0o755}, Entry{Path: "some/where", Mode: fs.ModeDir | 0o755})
	tree, err := FromEntries(entries)
	if err != nil {
		tb.Fatal(err)
	}
	return tree
}

func TestLargeTreeIsQuick(t *testing.T) {
	best := time.Hour
	for range 5 {
		tree := large(t)
		start := time.Now()
		if _, err := tree.Digest(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	if best > 200*time.Millisecond {
		t.Errorf("a known tree of 20,000 files took %v", best)
	}
}

func BenchmarkFromEntriesDigest(b *testing.B) {
	for b.Loop() {
		tree := large(b)
		start := time.Now()
		if _, err := tree.Digest(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Microseconds()), "µs/digest")
	}
}

func BenchmarkGoTree(b *testing.B) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := New(strings.TrimSpace(string(root))).Digest(b.Context(), []Selector{{Path: "src"}}); err != nil {
			b.Fatal(err)
		}
	}
}
