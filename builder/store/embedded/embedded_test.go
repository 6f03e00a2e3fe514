package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/storetest"
)

func TestSuite(t *testing.T) {
	for _, snapshotter := range []string{"overlayfs", fuseOverlayFS, "native"} {
		t.Run(snapshotter, func(t *testing.T) {
			storetest.Suite(t, func(t *testing.T) *store.Store {
				return openTest(t, Config{Root: t.TempDir(), Snapshotter: snapshotter})
			})
		})
	}
}

func openTest(t testing.TB, cfg Config) *store.Store {
	t.Helper()
	st, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// keep makes a snapshot that outlives collections.
func keep(t *testing.T, st *store.Store, name string) {
	t.Helper()
	ctx := st.Context(context.Background())
	root := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"})
	if _, err := st.Snapshots.Prepare(ctx, name, "", root); err != nil {
		t.Fatal(err)
	}
}

func has(st *store.Store, name string) bool {
	_, err := st.Snapshots.Stat(st.Context(context.Background()), name)
	return err == nil
}

func TestSnapshotters(t *testing.T) {
	if st := openTest(t, Config{Root: t.TempDir(), Snapshotter: "auto"}); st.Snapshotter != "overlayfs" {
		t.Errorf("auto is %s", st.Snapshotter)
	}
	if _, err := Open(context.Background(), Config{Root: t.TempDir(), Snapshotter: "zfs"}); err == nil || !strings.Contains(err.Error(), "overlayfs") {
		t.Errorf("an unknown one: %v", err)
	}
}

// TestAuto expects the next best snapshotter where the kernel's overlayfs doesn't
// work, as it never does on an overlay.
func TestAuto(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, dir, dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH)
	st := openTest(t, Config{Root: filepath.Join(merged, "a")})
	want := fuseOverlayFS
	if err := truthful(t.TempDir()); err != nil {
		t.Logf("the program of this machine: %v", err)
		want = "native"
	}
	if st.Snapshotter != want {
		t.Errorf("with the program: %s, want %s", st.Snapshotter, want)
	}
	keep(t, st, "works")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "/nonexistent")
	for _, named := range []string{"overlayfs", fuseOverlayFS} {
		if _, err := Open(context.Background(), Config{Root: filepath.Join(merged, "b"), Snapshotter: named}); err == nil || !strings.Contains(err.Error(), "choose") {
			t.Errorf("%s: %v", named, err)
		}
	}
	st = openTest(t, Config{Root: filepath.Join(merged, "b")})
	if st.Snapshotter != "native" {
		t.Errorf("without the program: %s", st.Snapshotter)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNoSuchSnapshot: asking a snapshotter for what it hasn't, as after damage,
// doesn't keep it from closing.
func TestNoSuchSnapshot(t *testing.T) {
	_, sn, err := openFUSE(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sn.Mounts(context.Background(), "none"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	closed := make(chan error, 1)
	go func() { closed <- sn.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it doesn't close")
	}
}

func TestReopen(t *testing.T) {
	root := t.TempDir()
	st := openTest(t, Config{Root: root})
	keep(t, st, "a")
	if _, err := Open(context.Background(), Config{Root: root}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if st = openTest(t, Config{Root: root}); !has(st, "a") {
		t.Error("lost what was there")
	}
	if fi, err := os.Stat(root); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

// TestCrash expects a store whose machine went down while it was open to start
// afresh, and one that was marked clean to keep what it has.
func TestCrash(t *testing.T) {
	for name, c := range map[string]struct {
		clean, want bool
	}{"open": {false, false}, "clean": {true, true}} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			st := openTest(t, Config{Root: root})
			keep(t, st, "a")
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			if c.clean {
				if err := MarkClean(root); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(filepath.Join(root, markName), []byte("another run of the machine\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if st = openTest(t, Config{Root: root}); has(st, "a") != c.want {
				t.Errorf("kept: %v", has(st, "a"))
			}
			keep(t, st, "b")
		})
	}
}

// TestTornDatabase: what can't be read is dropped, with all that it was about.
func TestTornDatabase(t *testing.T) {
	root := t.TempDir()
	st := openTest(t, Config{Root: root})
	keep(t, st, "a")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []func(path string) error{
		os.Remove,
		func(path string) error { return os.Truncate(path, 0) },
		func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte{1}, 1<<16), 0o600) },
	} {
		for _, name := range []string{"meta.db", "snapshots-" + st.Snapshotter + "/containerd.db"} {
			if err := damage(filepath.Join(root, name)); err != nil {
				t.Fatal(err)
			}
			st = openTest(t, Config{Root: root})
			if has(st, "a") {
				t.Error("it is still there")
			}
			keep(t, st, "a")
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestCollectorWaits expects removals to be collected only after a while of
// quiet, unless asked for.
func TestCollectorWaits(t *testing.T) {
	for _, snapshotter := range []string{"overlayfs", fuseOverlayFS} {
		t.Run(snapshotter, func(t *testing.T) { testCollectorWaits(t, snapshotter) })
	}
}

func testCollectorWaits(t *testing.T, snapshotter string) {
	root := t.TempDir()
	st := openTest(t, Config{Root: root, Snapshotter: snapshotter})
	ctx := st.Context(context.Background())
	l, err := st.Leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Snapshots.Prepare(leases.WithLease(ctx, l.ID), "a", ""); err != nil {
		t.Fatal(err)
	}
	if err := st.Leases.Delete(ctx, l); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if !has(st, "a") {
		t.Error("collected at once")
	}
	l, err = st.Leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Leases.Delete(ctx, l, leases.SynchronousDelete); err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob(filepath.Join(root, "snapshots-"+snapshotter, "[ds]*", "*")) // dirs or snapshots
	if has(st, "a") || err != nil || len(dirs) > 0 {
		t.Errorf("not collected: %v, %v", dirs, err)
	}
}

func TestCollectEnds(t *testing.T) {
	st := openTest(t, Config{Root: t.TempDir()})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := st.GC(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	st.Close()
	if err := st.GC(context.Background()); err == nil {
		t.Error("a closed store collects")
	}
	if _, err := st.Snapshots.Stat(st.Context(context.Background()), "a"); err == nil || errdefs.IsNotFound(err) {
		t.Errorf("a closed store answers: %v", err)
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		st, err := Open(context.Background(), Config{Root: b.TempDir(), Snapshotter: "overlayfs"})
		if err != nil {
			b.Fatal(err)
		}
		st.Close()
	}
}
