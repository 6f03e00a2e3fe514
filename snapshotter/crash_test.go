package snapshotter

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// filled makes a snapshotter with some of everything.
func filled(t *testing.T) *Snapshotter {
	s := open(t, Config{})
	layer(t, s, "ns/1/base", "", "base")
	layer(t, s, "ns/2/top", "ns/1/base", "top")
	if _, err := s.Prepare(background, "ns/3/active", "ns/2/top"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.View(background, "ns/4/view", "ns/2/top"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.View(background, "ns/5/nothing", ""); err != nil {
		t.Fatal(err)
	}
	layer(t, s.Private(), "mine", keep(t, s, "ns", "top"), "mine")
	if err := publish(t, s, "", "mine", "ns/2/top", "sha256:mine"); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	synced(s)
	return s
}

// synced waits until the files of aliases are on disk.
func synced(s *Snapshotter) {
	s.syncing.mu.Lock()
	busy := s.syncing.busy
	s.syncing.mu.Unlock()
	if busy != nil {
		<-busy
	}
}

func TestKilled(t *testing.T) {
	t.Parallel()
	s := filled(t)
	before, mine := walk(t, s), walk(t, s.Private())
	s2 := open(t, Config{Root: killed(t, s)})
	if after := walk(t, s2); after != before {
		t.Errorf("there are %q, there were %q", after, before)
	}
	if after := walk(t, s2.Private()); after != mine {
		t.Errorf("there are %q, there were %q", after, mine)
	}
	for _, name := range strings.Fields(before) {
		x, err1 := s.Stat(background, name)
		y, err2 := s2.Stat(background, name)
		if err1 != nil || err2 != nil || x.Parent != y.Parent || x.Kind != y.Kind || !x.Created.Equal(y.Created) || usage(t, s, name) != usage(t, s2, name) {
			t.Errorf("%s was %+v, is %+v (%v, %v)", name, x, y, err1, err2)
		}
	}
	if got := files(t, s2, "ns/77/sha256:mine"); got != "base mine top" {
		t.Errorf("files %q", got)
	}
	if n := dirs(t, s2); n != 4 {
		t.Errorf("%d directories", n)
	}
	remove(t, s2, "ns/3/active", "ns/4/view", "ns/5/nothing", "ns/77/sha256:mine", "ns/2/top", "ns/1/base")
	if got := files(t, s2.Private(), "mine"); got != "base mine top" {
		t.Errorf("files %q", got)
	}
	layer(t, s2.Private(), "more", "mine", "more") // under an id that nothing has
	remove(t, s2.Private(), "more", "mine", "kept/2/top", "kept/1/base")
	if n := dirs(t, s2); n != 0 {
		t.Errorf("%d directories", n)
	}
}

// After a crash of the machine the engine's names are gone, and what containerd
// was given of them is still there.
func TestMachineCrash(t *testing.T) {
	t.Parallel()
	s := filled(t)
	layer(t, s.Private(), "only mine", "", "x")
	root := killed(t, s)
	if err := os.WriteFile(filepath.Join(root, "boot"), []byte("another run"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "engine.db"), []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	s2 := open(t, Config{Root: root})
	if got := walk(t, s2.Private()); got != "" {
		t.Errorf("private: %q", got)
	}
	if got := files(t, s2, "ns/77/sha256:mine"); got != "base mine top" {
		t.Errorf("files %q", got)
	}
	if n := dirs(t, s2); n != 4 {
		t.Errorf("%d directories", n)
	}
}

// What nobody wants back isn't written down, what is committed of it is.
func TestTransient(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	layer(t, s, "ns/1/base", "", "base")
	written := func() (n int) {
		if err := s.db.View(func(tx *bolt.Tx) error {
			n = tx.Bucket(bucketNames).Stats().KeyN + tx.Bucket(bucketDirs).Stats().KeyN
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := written()
	transient := snapshots.WithLabels(map[string]string{LabelTransient: "true"})
	for _, key := range []string{"ns/2/work", "ns/3/more"} {
		if _, err := s.Prepare(background, key, "ns/1/base", transient); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.View(background, "ns/4/view", "ns/1/base", transient); err != nil {
		t.Fatal(err)
	}
	if n := written(); n != before || n != 2 {
		t.Errorf("%d keys are on disk, %d were", n, before)
	}
	if _, err := s.Update(background, snapshots.Info{Name: "ns/2/work"}, "labels"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("it becomes another kind of snapshot: %v", err)
	}
	if err := s.Commit(background, "ns/5/done", "ns/2/work", transient); err != nil {
		t.Fatal(err)
	}
	s2 := open(t, Config{Root: killed(t, s)})
	if got := walk(t, s2); got != "ns/1/base ns/5/done" {
		t.Errorf("there are %q", got)
	}
	if n := dirs(t, s2); n != 2 {
		t.Errorf("%d directories", n)
	}
	remove(t, s, "ns/3/more", "ns/4/view", "ns/5/done", "ns/1/base")
	if n := dirs(t, s); n != 0 {
		t.Errorf("%d directories", n)
	}
}

// What was given to containerd and isn't on disk when the machine goes down is
// dropped, with what stands on it. If only the process is killed it stays.
func TestCrashBeforeSync(t *testing.T) {
	t.Parallel()
	s := filled(t)
	wait := make(chan struct{})
	s.syncing.sync = func() error { <-wait; return nil }
	defer close(wait)
	layer(t, s.Private(), "more", "mine", "more")
	if err := publish(t, s, "", "more", "ns/77/sha256:mine", "sha256:more"); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if _, err := s.Prepare(background, "ns/9/container", "ns/77/sha256:more"); err != nil {
		t.Fatal(err)
	}
	root := killed(t, s)
	s2 := open(t, Config{Root: killed(t, s)})
	if a, b := walk(t, s), walk(t, s2); a != b {
		t.Errorf("a killed process leaves %q, not %q", b, a)
	}
	synced(s2)
	if err := os.WriteFile(filepath.Join(root, "boot"), []byte("another run"), 0o600); err != nil {
		t.Fatal(err)
	}
	s3 := open(t, Config{Root: root})
	if got := walk(t, s3); got != "ns/1/base ns/2/top ns/3/active ns/4/view ns/5/nothing ns/77/sha256:mine" {
		t.Errorf("there are %q", got)
	}
	if n := dirs(t, s3); n != 4 {
		t.Errorf("%d directories", n)
	}
	// On disk after all, by the process that was killed in between.
	root = killed(t, s2)
	if err := os.WriteFile(filepath.Join(root, "boot"), []byte("another run"), 0o600); err != nil {
		t.Fatal(err)
	}
	s4 := open(t, Config{Root: root})
	if a, b := walk(t, s2), walk(t, s4); a != b {
		t.Errorf("there are %q, not %q", b, a)
	}
}

// An orderly end is no crash.
func TestMachineRestart(t *testing.T) {
	t.Parallel()
	s := filled(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(background, "late", ""); !errdefs.IsUnavailable(err) {
		t.Errorf("used after Close: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.root, "boot")); !os.IsNotExist(err) {
		t.Fatalf("the mark is there: %v", err)
	}
	s2 := open(t, Config{Root: s.root})
	if got := files(t, s2.Private(), "mine"); got != "base mine top" {
		t.Errorf("files %q", got)
	}
	if n := dirs(t, s2); n != 4 {
		t.Errorf("%d directories", n)
	}
}

// What couldn't be written to the disk is dropped after a crash although the
// process ended in order before.
func TestUnsyncedAtTheEnd(t *testing.T) {
	t.Parallel()
	s, err := Open(background, Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk is broken")
	s.syncing.sync = func() error { return broken }
	layer(t, s, "ns/1/base", "", "base")
	if err := publish(t, s, "ns", "base", "", "sha256:base"); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, broken) {
		t.Errorf("Close says %v", err)
	}
	root := killed(t, s)
	mark := filepath.Join(root, "boot")
	if _, err := os.Stat(mark); err != nil {
		t.Fatalf("the mark: %v", err)
	}
	if err := os.WriteFile(mark, []byte("another run"), 0o600); err != nil {
		t.Fatal(err)
	}
	s2 := open(t, Config{Root: root})
	if got := walk(t, s2); got != "ns/1/base" {
		t.Errorf("there are %q", got)
	}
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	s := filled(t)
	root := killed(t, s)
	// A directory that no name leads to, what isn't a directory, and a name whose
	// directory has vanished.
	if err := os.MkdirAll(filepath.Join(root, "dirs", "zz", "fs", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "dirs", "new-tmp"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.mu.RLock()
	lost := s.engine.entries["mine"].node.id
	s.mu.RUnlock()
	if err := os.RemoveAll(filepath.Join(root, "dirs", lost)); err != nil {
		t.Fatal(err)
	}
	s2 := open(t, Config{Root: root})
	if got := walk(t, s2); got != "ns/1/base ns/2/top ns/3/active ns/4/view ns/5/nothing" {
		t.Errorf("there are %q", got)
	}
	if got := walk(t, s2.Private()); got != "kept/1/base kept/2/top" {
		t.Errorf("private: %q", got)
	}
	if n := dirs(t, s2); n != 3 {
		t.Errorf("%d directories", n)
	}
}

func TestOpenTwice(t *testing.T) {
	t.Parallel()
	s := open(t, Config{})
	_, err := Open(background, Config{Root: s.root})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), s.root) {
		t.Errorf("got %v", err)
	}
}
