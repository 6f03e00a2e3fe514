package local

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/store/host"
	"github.com/kiln-build/kiln/builder/store/storetest"
	"github.com/moby/buildkit/solver/pb"
)

func put(t testing.TB, file, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAllKinds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	put(t, dir+"/a/file", "content")
	put(t, dir+"/a/empty", "")
	put(t, dir+"/a/b/c/deep", strings.Repeat("x", 200_000))
	put(t, dir+"/a.b", "sorts after a/")
	put(t, dir+"/suid", "s")
	ok(t, os.Chmod(dir+"/suid", 0o711|os.ModeSetuid|os.ModeSetgid))
	ok(t, os.MkdirAll(dir+"/sticky", 0o755))
	ok(t, os.Chmod(dir+"/sticky", 0o700|os.ModeSticky))
	ok(t, os.Symlink("../nowhere", dir+"/a/link"))
	ok(t, os.Link(dir+"/a/file", dir+"/hard"))
	ok(t, os.Link(dir+"/a/file", dir+"/a/zhard"))
	ok(t, syscall.Mkfifo(dir+"/fifo", 0o640))
	ok(t, syscall.Mknod(dir+"/null", syscall.S_IFCHR|0o666, 1<<8|3))
	ok(t, syscall.Setxattr(dir+"/a/file", "user.k", []byte("v"), 0))
	old := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	ok(t, os.Chtimes(dir+"/a/b", old, old))
	ok(t, os.Chtimes(dir+"/a/empty", old, old))
	g := f.must(f.client(dir))
	f.check(g, list(t, dir))
	if !g.key.Worked || g.key.Record.Kind != "source.local" || g.key.Record.Text != "local source for ctx" {
		t.Errorf("key %+v", g.key)
	}
	if g.bytes < 200_000 {
		t.Errorf("progress ended at %d bytes", g.bytes)
	}
	m, release, err := f.layers.Mount(t.Context(), g.layer)
	ok(t, err)
	defer release()
	v := make([]byte, 10)
	if n, err := syscall.Getxattr(m+"/a/file", "user.k", v); err != nil || string(v[:n]) != "v" {
		t.Errorf("attribute %q, %v", v[:max(n, 0)], err)
	}
}

func TestUnchanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	put(t, dir+"/a", strings.Repeat("a", 1<<20))
	put(t, dir+"/d/b", "b")
	first := f.must(f.client(dir))
	second := f.must(f.client(dir))
	if second.layer.Name != first.layer.Name || second.key.Digest != first.key.Digest || second.bytes > 10_000 {
		t.Errorf("second transfer: %+v", second)
	}
	f.restart()
	third := f.must(f.client(dir))
	if third.layer.Name != first.layer.Name || third.key.Digest != first.key.Digest || third.bytes > 10_000 {
		t.Errorf("after a restart: %+v", third)
	}
	f.check(third, list(t, dir))

	// touched: content comes again and is the same
	now := time.Now().Add(time.Hour)
	ok(t, os.Chtimes(dir+"/a", now, now))
	touched := f.must(f.client(dir))
	if touched.layer.Name != first.layer.Name || touched.key.Digest != first.key.Digest || touched.bytes < 1<<20 {
		t.Errorf("touched: %+v", touched)
	}
	if again := f.must(f.client(dir)); again.bytes > 10_000 {
		t.Errorf("touched, again: %d bytes", again.bytes)
	}
	if always := f.must(f.client(dir), pb.AttrLocalDiffer, pb.AttrLocalDifferNone); always.bytes < 1<<20 || always.key.Digest != first.key.Digest {
		t.Errorf("differ none: %+v", always)
	}
	if n := f.leasesLeft(); n != 1 {
		t.Errorf("%d leases", n)
	}
}

func TestOneFileChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	put(t, dir+"/big", strings.Repeat("a", 1<<20))
	put(t, dir+"/d/small", "1")
	first := f.must(f.client(dir))
	put(t, dir+"/d/small", "22")
	second := f.must(f.client(dir))
	if second.bytes > 10_000 || second.key.Digest == first.key.Digest || second.layer.Parent == nil || second.layer.Parent.Name != first.layer.Name {
		t.Errorf("%+v", second)
	}
	f.check(second, list(t, dir))
	put(t, dir+"/d/small", "1")
	if back := f.must(f.client(dir)); back.key.Digest != first.key.Digest {
		t.Errorf("as before: %v, %v", back.key.Digest, first.key.Digest)
	}
}

func TestEmptyDirectory(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	g := f.must(f.client(dir))
	if g.layer != nil || g.key.Digest == "" {
		t.Errorf("%+v", g)
	}
	put(t, dir+"/a", "1")
	f.check(f.must(f.client(dir)), list(t, dir))
	ok(t, os.Remove(dir+"/a"))
	if again := f.must(f.client(dir)); again.key.Digest != g.key.Digest {
		t.Errorf("empty again: %+v", again)
	}
}

// TestRandomChanges compares many transfers of a directory that changes in all
// ways with the directory itself.
func TestRandomChanges(t *testing.T) {
	t.Parallel()
	testRandomChanges(t, newFixture(t))
}

func TestRandomChangesOnContainerd(t *testing.T) {
	t.Parallel()
	st, err := host.Open(t.Context(), host.Config{Address: storetest.Containerd(t), Namespace: "k8s.io"})
	ok(t, err)
	testRandomChanges(t, newFixtureOn(t, st))
}

func testRandomChanges(t *testing.T, f *fixture) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	deepest := 0
	for round := range 30 {
		for range 1 + r.IntN(8) {
			mutate(t, r, dir)
		}
		if round%7 == 6 {
			f.restart()
		}
		g := f.must(f.client(dir))
		f.check(g, list(t, dir))
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		deepest = max(deepest, len(g.layer.Chain()))
	}
	if deepest > maxDepth || deepest < 3 {
		t.Errorf("the deepest transfer has %d layers", deepest)
	}
	if n := f.leasesLeft(); n > 31 {
		t.Errorf("%d leases", n)
	}
}

// mutate makes one random change below dir.
func mutate(t *testing.T, r *rand.Rand, dir string) {
	t.Helper()
	name := func() string {
		p := dir
		for range 1 + r.IntN(3) {
			p = filepath.Join(p, string(rune('a'+r.IntN(4)))+[]string{"", "", ".x", "-"}[r.IntN(4)])
		}
		return p
	}
	p := name()
	switch r.IntN(8) {
	case 0:
		if !blocked(p) {
			ok(t, os.RemoveAll(p))
		}
	case 1, 2, 3:
		if blocked(p) {
			return
		}
		ok(t, os.RemoveAll(p))
		put(t, p, strings.Repeat(fmt.Sprint(r.IntN(100)), r.IntN(1000)))
	case 4:
		if blocked(p) {
			return
		}
		ok(t, os.RemoveAll(p))
		ok(t, os.MkdirAll(filepath.Dir(p), 0o755))
		ok(t, os.Symlink(fmt.Sprint("to", r.IntN(5)), p))
	case 5:
		if fi, err := os.Lstat(p); err == nil && fi.Mode()&os.ModeSymlink == 0 {
			ok(t, os.Chmod(p, os.FileMode(0o700+r.IntN(64))))
		}
	case 6:
		to := name()
		if fi, err := os.Lstat(p); err == nil && fi.Mode().IsRegular() && !blocked(to) && !strings.HasPrefix(p+"/", to+"/") && !strings.HasPrefix(p, to+"/") {
			ok(t, os.RemoveAll(to))
			ok(t, os.MkdirAll(filepath.Dir(to), 0o755))
			ok(t, os.Link(p, to))
		}
	case 7:
		if fi, err := os.Lstat(p); err == nil && fi.Mode().IsRegular() { // content changes, name stays
			ok(t, os.WriteFile(p, []byte(fmt.Sprint("in place ", r.Int())), 0o644))
		}
	}
}

// blocked: something on the way to the path is no directory.
func blocked(p string) bool {
	for d := filepath.Dir(p); ; d = filepath.Dir(d) {
		if fi, err := os.Lstat(d); err == nil {
			return !fi.IsDir()
		}
	}
}

func TestSelections(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	for _, n := range []string{"a.go", "b.go", "doc/c.md", "doc/d.go", "target/t", "größe"} {
		put(t, filepath.Join(dir, n), n)
	}
	ok(t, os.Symlink("target", dir+"/link"))
	s := f.client(dir)
	for _, tc := range []struct{ key, value, want string }{
		{pb.AttrIncludePatterns, `["*.go","größe"]`, "a.go b.go größe"},
		{pb.AttrExcludePatterns, `["doc","target","link"]`, "a.go b.go größe"},
		{pb.AttrFollowPaths, `["link/t"]`, "link target target/t"},
		{pb.AttrIncludePatterns, `["doc/*.md"]`, "doc doc/c.md"},
	} {
		g := f.must(s, tc.key, tc.value)
		m, release, err := f.layers.Mount(t.Context(), g.layer)
		ok(t, err)
		var names []string
		for _, line := range list(t, m) {
			name, _, _ := strings.Cut(line, " ")
			names = append(names, name)
		}
		release()
		if strings.Join(names, " ") != tc.want {
			t.Errorf("%s=%s: %v", tc.key, tc.value, names)
		}
	}
	if kept, err := f.List(t.Context()); err != nil || len(kept) != 3 { // two have the same files
		t.Errorf("%d kept, %v", len(kept), err)
	}
}

func TestListing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	for _, n := range []string{".a", "a/b/c", "a/b/d", "a/x", "z"} {
		put(t, filepath.Join(dir, n), n)
	}
	ok(t, os.Link(dir+"/a/b/c", dir+"/a/y"))
	ok(t, os.Link(dir+"/a/b/c", dir+"/a/z"))
	s := f.client(dir)
	attrs := []string{pb.AttrMetadataTransfer, "true", pb.AttrMetadataTransferExclude, `["a/b/d","a/y","a/z"]`}
	g := f.must(s, attrs...)
	m, release, err := f.layers.Mount(t.Context(), g.layer)
	ok(t, err)
	defer release()
	var names []string
	for _, line := range list(t, m) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	if want := []string{listingName, "a", "a/b", "a/b/d", "a/y", "a/z"}; !slices.Equal(names, want) {
		t.Errorf("%v", names)
	}
	b, err := os.ReadFile(m + "/a/z")
	if err != nil || string(b) != "a/b/c" {
		t.Errorf("a link without its file: %q, %v", b, err)
	}
	b, err = os.ReadFile(m + "/" + listingName)
	ok(t, err)
	for _, n := range []string{".a", "a/b/c", "z"} {
		if !strings.Contains(string(b), n) {
			t.Errorf("%s isn't listed", n)
		}
	}
	if again := f.must(s, attrs...); again.layer.Name != g.layer.Name {
		t.Errorf("again: %+v", again)
	}
	put(t, dir+"/zz", "")
	if more := f.must(s, attrs...); more.key.Digest == g.key.Digest {
		t.Error("another file doesn't show")
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	for i := range 200 {
		put(t, fmt.Sprintf("%s/%d/%d", dir, i%7, i), fmt.Sprint(i))
	}
	want := list(t, dir)
	var wg sync.WaitGroup
	for range 6 {
		s := f.client(dir)
		wg.Go(func() {
			g, err := f.transfer(s)
			if err != nil {
				t.Error(err)
				return
			}
			f.check(g, want)
		})
	}
	wg.Wait()
}

func TestRemoveAndCollect(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	put(t, dir+"/a", strings.Repeat("1", 100_000))
	g := f.must(f.client(dir))
	kept, err := f.List(t.Context())
	if err != nil || len(kept) != 1 || kept[0].Name != "ctx" || !kept[0].InUse || kept[0].Size < 100_000 || !slices.Equal(kept[0].Layers, []string{g.layer.Name}) {
		t.Fatalf("%+v, %v", kept, err)
	}
	ok(t, f.Remove(t.Context(), kept[0].Key))
	if err := f.Remove(t.Context(), kept[0].Key); !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
	ok(t, f.store.GC(t.Context()))
	if _, err := f.layers.Open(t.Context(), g.layer.Name); err != nil {
		t.Errorf("a build has lost its files: %v", err)
	}
	if files, _ := os.ReadDir(filepath.Join(f.root, "local")); len(files) != 1 {
		t.Errorf("left: %v", files)
	}
	f.restart() // nobody remembers who has it
	if n := f.leasesLeft(); n != 0 {
		t.Errorf("%d leases after a restart", n)
	}
}

// TestBuildEnds: a replaced transfer stays for as long as the build that has it.
func TestBuildEnds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	client := f.client(dir)
	inUse := func() bool {
		kept, err := f.List(t.Context())
		ok(t, err)
		return slices.ContainsFunc(kept, func(k Kept) bool { return k.InUse })
	}
	put(t, dir+"/a", "1")
	first, firstEnds := context.WithCancel(t.Context())
	g, err := f.transferWith(first, client)
	ok(t, err)
	put(t, dir+"/a", "2")
	second, secondEnds := context.WithCancel(t.Context())
	_, err = f.transferWith(second, client)
	ok(t, err)
	f.dropRecords()
	ok(t, f.store.GC(t.Context()))
	if _, err := f.layers.Open(t.Context(), g.layer.Name); err != nil {
		t.Errorf("a build has lost its files: %v", err)
	}
	firstEnds()
	secondEnds()
	for inUse() || f.leasesLeft() != 1 {
		runtime.Gosched() // ends with the test's timeout
	}
	kept, err := f.List(t.Context())
	ok(t, err)
	ok(t, f.Remove(t.Context(), kept[0].Key))
	ok(t, f.layers.Settle())
	ok(t, f.store.GC(t.Context()))
	if _, err := f.layers.Open(t.Context(), g.layer.Name); !errdefs.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestLayerThatIsGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	put(t, dir+"/a", "1")
	g := f.must(f.client(dir))
	ctx := f.store.Context(t.Context())
	ok(t, f.store.Snapshots.Remove(ctx, g.layer.Name))
	f.check(f.must(f.client(dir)), list(t, dir))
	f.restart()
	for _, pattern := range []string{"index-*", "state-*"} {
		files, _ := filepath.Glob(filepath.Join(f.root, "local", pattern))
		for _, file := range files {
			ok(t, os.Truncate(file, 10))
		}
		f.check(f.must(f.client(dir)), list(t, dir))
		f.restart()
	}
}

func TestLayerThatWasLostMeanwhile(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	put(t, dir+"/a", "1")
	g := f.must(f.client(dir))
	f.restart()
	if n := f.leasesLeft(); n != 1 {
		t.Errorf("there are %d leases of one layer", n)
	}
	ok(t, f.store.Snapshots.Remove(f.store.Context(t.Context()), g.layer.Name))
	f.restart()
	if n := f.leasesLeft(); n != 0 {
		t.Errorf("%d leases are left of a layer that is gone", n)
	}
	f.check(f.must(f.client(dir)), list(t, dir))
}

func TestSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	put(t, dir+"/a", "1")
	s := f.client(dir)
	other := f.client(t.TempDir())
	for _, named := range []string{s, "pre:" + s} {
		_, err := f.transfer(other, pb.AttrLocalSessionID, named)
		if strings.HasPrefix(named, "pre:") != (err != nil) || err != nil && !errdefs.IsNotFound(err) {
			t.Errorf("session %s: %v", named, err)
		}
	}
	if _, err := f.transfer("", "local.includepattern", "{"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("malformed patterns: %v", err)
	}
}
