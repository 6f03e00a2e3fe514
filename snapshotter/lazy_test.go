package snapshotter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// shower shows a tmpfs with one file, named by the label "file".
type shower struct {
	mu     sync.Mutex
	down   bool // the registry
	silent bool // the registry's host
	mounts int
}

func (l *shower) set(down, silent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down, l.silent = down, silent
}

func (l *shower) Mount(_ context.Context, dir string, labels map[string]string) error {
	l.mu.Lock()
	down, silent := l.down, l.silent
	l.mounts++
	l.mu.Unlock()
	file := labels["containerd.io/snapshot/file"]
	switch {
	case file == "":
		return errdefs.ErrNotImplemented
	case silent:
		time.Sleep(500 * time.Millisecond) // whatever the context says
		return errors.New("at last an error")
	case down:
		return errors.New("connection refused")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700"); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), nil, 0o600)
}

func (l *shower) Check(_ context.Context, dir string, labels map[string]string) error {
	_, err := os.Stat(filepath.Join(dir, labels["containerd.io/snapshot/file"]))
	return err
}

func (l *shower) Unmount(_ context.Context, dir string) error { return detach(dir) }

// pull does what containerd does with a layer that may be lazy.
func pull(t *testing.T, s *Snapshotter, file, parent, target string) error {
	t.Helper()
	_, err := s.Prepare(background, "ns/1/extract", parent, snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotRef: target, "containerd.io/snapshot/file": file,
	}))
	return err
}

// unmounted takes away what is mounted below the root at the end.
func unmounted(t *testing.T, s *Snapshotter) {
	t.Helper()
	t.Cleanup(func() {
		entries, _ := os.ReadDir(filepath.Join(s.root, "dirs"))
		for _, e := range entries {
			if err := detach(filepath.Join(s.root, "dirs", e.Name(), "fs")); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestLazy(t *testing.T) {
	t.Parallel()
	lazy := &shower{}
	s := open(t, Config{Lazy: lazy})
	unmounted(t, s)
	if err := pull(t, s, "a", "", "a"); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if err := pull(t, s, "b", "ns/1/a", "b"); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if err := pull(t, s, "", "ns/1/b", "c"); err != nil {
		t.Fatalf("what isn't lazy: %v", err)
	}
	if err := s.Commit(background, "ns/1/c", "ns/1/extract"); err != nil {
		t.Fatal(err)
	}
	if got := files(t, s, "ns/1/c"); got != "a b" {
		t.Errorf("files %q", got)
	}
	if u := usage(t, s, "ns/1/b"); u.Size != 0 {
		t.Errorf("usage %+v", u)
	}
	// Its server goes: whoever needs it next finds it again.
	s.mu.RLock()
	dir := s.fs(s.entries["ns/1/a"].node)
	s.mu.RUnlock()
	if err := detach(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.View(background, "view", "ns/1/c"); err != nil {
		t.Fatal(err)
	}
	if err := detach(dir); err != nil {
		t.Fatal(err)
	}
	mounts, err := s.Mounts(background, "view")
	if err != nil {
		t.Fatal(err)
	}
	within(t, mounts, func(dir string) {
		if _, err := os.Stat(filepath.Join(dir, "a")); err != nil {
			t.Error(err)
		}
	})
	// After a restart, too; with the registry away only what needs it fails.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s2 := open(t, Config{Root: s.root, Lazy: lazy})
	layer(t, s2, "plain", "", "plain")
	if err := detach(dir); err != nil {
		t.Fatal(err)
	}
	lazy.set(true, false)
	if _, err := s2.Mounts(background, "view"); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("with the registry away: %v", err)
	}
	if _, err := s2.Prepare(background, "key", "ns/1/c"); !errdefs.IsUnavailable(err) {
		t.Errorf("with the registry away: %v", err)
	}
	if got := files(t, s2, "plain"); got != "plain" {
		t.Errorf("files %q", got)
	}
	lazy.set(false, false)
	if got := files(t, s2, "ns/1/c"); got != "a b" {
		t.Errorf("files %q", got)
	}
	remove(t, s2, "view", "plain", "ns/1/c", "ns/1/b", "ns/1/a")
	if n := dirs(t, s2); n != 0 {
		t.Errorf("%d directories", n)
	}
}

func TestLazyIsSwitchedOff(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Lazy: &shower{}})
	unmounted(t, s)
	if err := pull(t, s, "a", "", "a"); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s2 := open(t, Config{Root: s.root})
	if _, err := s2.View(background, "view", "ns/1/a"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "switch") {
		t.Errorf("got %v", err)
	}
	remove(t, s2, "ns/1/a")
	if n := dirs(t, s2); n != 0 {
		t.Errorf("%d directories", n)
	}
}

// A registry that doesn't answer costs the time that it is given.
func TestLazyIsSilent(t *testing.T) {
	t.Parallel()
	lazy := &shower{silent: true}
	s := open(t, Config{Lazy: lazy})
	s.limits = limits{mount: 50 * time.Millisecond, check: 50 * time.Millisecond, unmount: time.Second}
	start := time.Now()
	if err := pull(t, s, "a", "", "a"); err != nil {
		t.Errorf("want a snapshot to fill, not %v", err)
	}
	if d := time.Since(start); d > 400*time.Millisecond {
		t.Errorf("it took %s", d)
	}
	if n := dirs(t, s); n != 1 {
		t.Errorf("%d directories", n)
	}
}

// Who gives up while a layer is checked takes it away from nobody.
func TestLazyCheckIsCancelled(t *testing.T) {
	t.Parallel()
	lazy := &slowCheck{asked: make(chan struct{}), answer: make(chan struct{})}
	s := open(t, Config{Lazy: lazy})
	unmounted(t, s)
	if err := pull(t, s, "a", "", "a"); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(background)
	go func() { <-lazy.asked; cancel() }()
	if _, err := s.Prepare(ctx, "key", "ns/1/a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(lazy.answer)
	if got := files(t, s, "ns/1/a"); got != "a" {
		t.Errorf("files %q", got)
	}
	if n := lazy.unmounts.Load(); n != 0 {
		t.Errorf("it was unmounted %d times", n)
	}
	if lazy.mounts != 1 {
		t.Errorf("it was mounted %d times", lazy.mounts)
	}
}

// slowCheck is a shower whose first Check waits to be answered.
type slowCheck struct {
	shower
	asked, answer chan struct{}
	once          sync.Once
	unmounts      atomic.Int32
}

func (l *slowCheck) Check(ctx context.Context, dir string, labels map[string]string) error {
	l.once.Do(func() { close(l.asked); <-l.answer })
	return l.shower.Check(ctx, dir, labels)
}

func (l *slowCheck) Unmount(ctx context.Context, dir string) error {
	l.unmounts.Add(1)
	return l.shower.Unmount(ctx, dir)
}

// Where containerd unpacks layers side by side, a lazy one is staged and gets
// its parent at Commit.
func TestLazyIsStaged(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Lazy: &shower{}})
	unmounted(t, s)
	layer(t, s, "ns/1/base", "", "base")
	mounts, err := s.Prepare(background, "ns/1/extract", "", snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotRef: "top", labelChainParent: "base", "containerd.io/snapshot/file": "a",
	}))
	if err != nil || !mounts[0].ReadOnly() {
		t.Fatalf("%v, %v", mounts, err)
	}
	if err := s.Commit(background, "ns/1/top", "ns/1/extract", snapshots.WithParent("ns/1/base")); err != nil {
		t.Fatal(err)
	}
	s2 := open(t, Config{Root: killed(t, s), Lazy: &shower{}})
	unmounted(t, s2)
	for _, s := range []*Snapshotter{s, s2} {
		if got := files(t, s, "ns/1/top"); got != "a base" {
			t.Errorf("files %q", got)
		}
	}
	remove(t, s2, "ns/1/top")
	if n := dirs(t, s2); n != 1 {
		t.Errorf("%d directories", n)
	}
}
