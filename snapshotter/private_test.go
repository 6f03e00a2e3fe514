package snapshotter

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// The two spaces don't see each other.
func TestPrivateIsHidden(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	layer(t, s.Private(), "x", "", "private")
	if _, err := s.Stat(background, "x"); !errdefs.IsNotFound(err) {
		t.Errorf("Stat: %v", err)
	}
	if _, err := s.Prepare(background, "y", "x"); !errdefs.IsNotFound(err) {
		t.Errorf("Prepare: %v", err)
	}
	if err := s.Remove(background, "x"); !errdefs.IsNotFound(err) {
		t.Errorf("Remove: %v", err)
	}
	layer(t, s, "x", "", "public")
	if a, b := files(t, s, "x"), files(t, s.Private(), "x"); a != "public" || b != "private" {
		t.Errorf("files %q and %q", a, b)
	}
	if got := walk(t, s); got != "x" {
		t.Errorf("Walk finds %q", got)
	}
}

func TestRebase(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	layer(t, s, "base", "", "base")
	layer(t, s, "other", "", "other")
	lower := snapshots.WithLabels(map[string]string{labelChainParent: "sha256:base"})
	mounts, err := s.Prepare(background, "key", "", lower)
	if err != nil {
		t.Fatal(err)
	}
	// Where it is mounted as an overlay, removals become whiteouts.
	if mounts[0].Type != "overlay" {
		t.Errorf("mounts %v", mounts)
	}
	within(t, mounts, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	})
	if err := s.Commit(background, "top", "key", snapshots.WithParent("nobody")); !errdefs.IsNotFound(err) {
		t.Errorf("on what isn't there: %v", err)
	}
	if err := s.Commit(background, "top", "key", snapshots.WithParent("base")); err != nil {
		t.Fatal(err)
	}
	if got := files(t, s, "top"); got != "base new" {
		t.Errorf("files %q", got)
	}
	if _, err := s.Prepare(background, "key", "base"); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(background, "top2", "key", snapshots.WithParent("other")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("another parent than it was prepared on: %v", err)
	}
	if err := s.Remove(background, "base"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removed below another: %v", err)
	}
	remove(t, s, "key", "top", "base", "other")
	if n := dirs(t, s); n != 0 {
		t.Errorf("%d directories", n)
	}
}

func BenchmarkPrivate(b *testing.B) {
	s, err := Open(background, Config{Root: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	bench(b, s.Private())
}

func BenchmarkPublic(b *testing.B) {
	s, err := Open(background, Config{Root: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	bench(b, s)
}

// bench prepares and commits layers on top of each other, among a thousand.
func bench(b *testing.B, sn snapshots.Snapshotter) {
	parent := ""
	i := 0
	add := func() {
		name := fmt.Sprint("layer", i)
		if _, err := sn.Prepare(background, "key", parent); err != nil {
			b.Fatal(err)
		}
		if err := sn.Commit(background, name, "key"); err != nil {
			b.Fatal(err)
		}
		if parent = name; i%50 == 49 {
			parent = ""
		}
		i++
	}
	if _, private := sn.(Private); private {
		for range 1000 {
			add()
		}
	}
	for b.Loop() {
		add()
	}
}
