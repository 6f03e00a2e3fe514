package private_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/embedded"
	"github.com/kiln-build/kiln/builder/store/storetest"
)

// everything makes all leases and snapshots private that can be.
func everything(st *store.Store) *store.Store {
	w := *st
	w.Leases = privateLeases{st.Leases}
	w.Snapshots = privateSnapshots{st.Snapshots}
	return &w
}

var label = map[string]string{store.LabelPrivate: "true"}

type privateLeases struct{ leases.Manager }

func (p privateLeases) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	return p.Manager.Create(ctx, append(opts, leases.WithLabels(label))...)
}

type privateSnapshots struct{ snapshots.Snapshotter }

func (p privateSnapshots) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return p.Snapshotter.Prepare(ctx, key, parent, append(opts, snapshots.WithLabels(label))...)
}

func openStore(t *testing.T, root, snapshotter string) *store.Store {
	t.Helper()
	st, err := embedded.Open(context.Background(), embedded.Config{Root: root, Snapshotter: snapshotter})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return everything(st)
}

// TestSuite: what is private behaves as what is containerd's.
func TestSuite(t *testing.T) {
	for _, snapshotter := range []string{"overlayfs", "fuse-overlayfs", "native"} {
		t.Run(snapshotter, func(t *testing.T) {
			storetest.Suite(t, func(t *testing.T) *store.Store { return openStore(t, t.TempDir(), snapshotter) })
		})
	}
}

// bed is a store with a lease.
type bed struct {
	*testing.T
	*store.Store
	root string
	ctx  context.Context
}

func newBed(t *testing.T) *bed {
	b := &bed{T: t, root: t.TempDir()}
	b.Store = openStore(t, b.root, "overlayfs")
	b.ctx = b.lease("lease")
	return b
}

func (b *bed) lease(id string) context.Context {
	b.Helper()
	ctx := b.Context(context.Background())
	if _, err := b.Leases.Create(ctx, leases.WithID(id)); err != nil {
		b.Fatal(err)
	}
	return leases.WithLease(ctx, id)
}

func (b *bed) Context(ctx context.Context) context.Context { return b.Store.Context(ctx) }

// commit makes a snapshot with one file and returns its directory.
func (b *bed) commit(name string) (dir string) {
	b.Helper()
	mounts, err := b.Snapshots.Prepare(b.ctx, "work-"+name, "")
	if err != nil {
		b.Fatal(err)
	}
	dir = mounts[0].Source
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(name), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := b.Snapshots.Commit(b.ctx, name, "work-"+name, snapshots.WithLabels(map[string]string{"x": "y"})); err != nil {
		b.Fatal(err)
	}
	return dir
}

// check fails unless the snapshot is there with its file, seen by way of a view.
func (b *bed) check(name string) {
	b.Helper()
	mounts, err := b.Snapshots.View(b.ctx, "view-"+name, name)
	if err != nil {
		b.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(mounts[0].Source, "file")); err != nil || string(got) != name {
		b.Errorf("%s has %q, %v", name, got, err)
	}
	if info, err := b.Snapshots.Stat(b.ctx, name); err != nil || info.Labels["x"] != "y" || info.Kind != snapshots.KindCommitted {
		b.Errorf("%s is %+v, %v", name, info, err)
	}
	if err := b.Snapshots.Remove(b.ctx, "view-"+name); err != nil {
		b.Error(err)
	}
}

func (b *bed) privateTrees() int {
	b.Helper()
	left, err := os.ReadDir(filepath.Join(b.root, "private", "trees"))
	if err != nil {
		b.Fatal(err)
	}
	return len(left)
}

// TestSettle: whatever containerd has to know of becomes containerd's, and what
// is open stays readable.
func TestSettle(t *testing.T) {
	for name, use := range map[string]func(b *bed, name string) error{
		"prepare": func(b *bed, name string) error {
			_, err := b.Snapshots.Prepare(b.ctx, "top", name)
			return err
		},
		"view": func(b *bed, name string) error {
			_, err := b.Snapshots.View(b.ctx, "view", name)
			return err
		},
		"update": func(b *bed, name string) error {
			_, err := b.Snapshots.Update(b.ctx, snapshots.Info{Name: name, Labels: map[string]string{"z": ""}}, "labels.z")
			return err
		},
		"another lease": func(b *bed, name string) error {
			b.lease("other")
			return b.Leases.AddResource(b.ctx, leases.Lease{ID: "other"}, leases.Resource{ID: name, Type: "snapshots/overlayfs"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			dir, err := os.Open(b.commit("a"))
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			if b.privateTrees() != 1 {
				t.Fatal("it isn't private")
			}
			before, err := b.Snapshots.Usage(b.ctx, "a")
			if err != nil || before.Size == 0 {
				t.Errorf("usage %+v, %v", before, err)
			}
			if err := use(b, "a"); err != nil {
				t.Fatal(err)
			}
			if b.privateTrees() != 0 {
				t.Error("it is still private")
			}
			if names, err := dir.Readdirnames(-1); err != nil || len(names) != 1 {
				t.Errorf("the open directory has %v, %v", names, err)
			}
			if after, err := b.Snapshots.Usage(b.ctx, "a"); err != nil || after != before {
				t.Errorf("usage %+v, was %+v, %v", after, before, err)
			}
			if err := b.GC(b.ctx); err != nil {
				t.Fatal(err)
			}
			b.check("a")
		})
	}
}

// TestRemoval: with its lease a snapshot goes, whether finished or not.
func TestRemoval(t *testing.T) {
	b := newBed(t)
	b.commit("a")
	if _, err := b.Snapshots.Prepare(b.ctx, "unfinished", ""); err != nil {
		t.Fatal(err)
	}
	if found, err := b.Leases.ListResources(b.ctx, leases.Lease{ID: "lease"}); err != nil || len(found) != 2 {
		t.Errorf("on the lease are %v, %v", found, err)
	}
	if err := b.Leases.Delete(b.ctx, leases.Lease{ID: "lease"}); err != nil {
		t.Fatal(err)
	}
	if err := b.GC(b.ctx); err != nil {
		t.Fatal(err)
	}
	if n := b.privateTrees(); n != 0 {
		t.Errorf("%d trees are left", n)
	}
	for _, name := range []string{"a", "unfinished"} {
		if _, err := b.Snapshots.Stat(b.ctx, name); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if found, err := b.Leases.List(b.ctx); err != nil || len(found) != 0 {
		t.Errorf("left are %v, %v", found, err)
	}
}

// TestReopen: what is finished is there after a restart, and nothing else.
func TestReopen(t *testing.T) {
	b := newBed(t)
	b.commit("a")
	settled := b.commit("b")
	b.check("b")
	if _, err := os.Stat(settled); err == nil {
		t.Error("it wasn't settled")
	}
	lost := b.commit("c")
	if _, err := b.Snapshots.Prepare(b.ctx, "unfinished", ""); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(lost); err != nil {
		t.Fatal(err)
	}
	b.Store = openStore(t, b.root, "overlayfs")
	if n := b.privateTrees(); n != 1 {
		t.Errorf("%d trees are left, want that of a", n)
	}
	for _, name := range []string{"c", "unfinished"} {
		if _, err := b.Snapshots.Stat(b.ctx, name); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.check("a")
	b.check("b")
}

// TestDamage: a journal that can't be read is dropped, with what it was about.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"gone":    os.Remove,
		"garbage": func(path string) error { return os.WriteFile(path, make([]byte, 1<<16), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.commit("a")
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if err := damage(filepath.Join(b.root, "private", "journal.db")); err != nil {
				t.Fatal(err)
			}
			b.Store = openStore(t, b.root, "overlayfs")
			if _, err := b.Snapshots.Stat(b.ctx, "a"); !errdefs.IsNotFound(err) || b.privateTrees() != 0 {
				t.Errorf("%d trees are left, %v", b.privateTrees(), err)
			}
			if _, err := b.Leases.Create(b.ctx, leases.WithID("lease")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDeletedMeanwhile: what is prepared or committed while its lease is deleted
// is an error or goes with it, and is never there without its tree.
func TestDeletedMeanwhile(t *testing.T) {
	b := newBed(t)
	for i := range 300 {
		id := fmt.Sprint("lease-", i)
		work, name := "work-"+id, "tree-"+id
		ctx := b.lease(id)
		if i%2 == 0 {
			if _, err := b.Snapshots.Prepare(ctx, work, ""); err != nil {
				t.Fatal(err)
			}
		}
		var both sync.WaitGroup
		both.Go(func() {
			if i%2 == 1 {
				if _, err := b.Snapshots.Prepare(ctx, work, ""); err != nil && !errdefs.IsNotFound(err) {
					t.Error(err)
				}
			}
			if err := b.Snapshots.Commit(ctx, name, work); err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
		})
		both.Go(func() {
			if err := b.Leases.Delete(ctx, leases.Lease{ID: id}); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		for _, name := range []string{work, name} {
			if _, err := b.Snapshots.Stat(ctx, name); !errdefs.IsNotFound(err) {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	if err := b.GC(b.ctx); err != nil {
		t.Fatal(err)
	}
	if n := b.privateTrees(); n != 0 {
		t.Errorf("%d trees are left", n)
	}
}

// TestNoPart: a tree that is being removed has lost its name before its first
// file, so that no process that is killed leaves a part of it.
func TestNoPart(t *testing.T) {
	b := newBed(t)
	dir := b.commit("a")
	for i := range 2000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Leases.Delete(b.ctx, leases.Lease{ID: "lease"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the tree has its name still: %v", err)
	}
}

// TestFilters: private snapshots are found by what others are found by, and once.
func TestFilters(t *testing.T) {
	b := newBed(t)
	b.commit("a")
	b.commit("b")
	b.check("b") // is containerd's now
	if _, err := b.Snapshots.Prepare(b.ctx, "c", ""); err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]string{
		"": "a b c", "kind==committed": "a b", "kind==active": "c", "name==a": "a", "labels.x==y": "a b", "parent==z": "",
	} {
		var found []string
		err := b.Snapshots.Walk(b.ctx, func(_ context.Context, info snapshots.Info) error {
			found = append(found, info.Name)
			return nil
		}, filter)
		slices.Sort(found)
		if got := strings.Join(found, " "); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", filter, got, err, want)
		}
	}
}
