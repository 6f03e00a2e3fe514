package private_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/embedded"
	"github.com/kiln-build/kiln/builder/store/host"
	"github.com/kiln-build/kiln/builder/store/private"
	"github.com/kiln-build/kiln/builder/store/storetest"
	"github.com/kiln-build/kiln/snapshotter"
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

// backends are those that have kiln's snapshotter: they give what opens a store,
// again after it was closed, and the directory of the snapshots.
var backends = map[string]func(t testing.TB, root string) (open func() *store.Store, trees string){
	"embedded": func(t testing.TB, root string) (func() *store.Store, string) {
		return func() *store.Store {
			return opened(t)(embedded.Open(context.Background(), embedded.Config{Root: root, Snapshotter: "overlayfs"}))
		}, filepath.Join(root, "snapshots-overlayfs", "dirs")
	},
	"host": func(t testing.TB, root string) (func() *store.Store, string) {
		address, sn := storetest.ContainerdOnKiln(t)
		kept, err := sn.View(context.Background(), "ns/1/empty", "")
		if err != nil {
			t.Fatal(err)
		}
		return func() *store.Store {
			under := opened(t)(host.Open(context.Background(), host.Config{Address: address, Snapshotter: "kiln"}))
			return opened(t)(private.Wrap(context.Background(), under, sn, root))
		}, filepath.Join(filepath.Dir(kept[0].Source), "dirs")
	},
}

func opened(t testing.TB) func(st *store.Store, err error) *store.Store {
	return func(st *store.Store, err error) *store.Store {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		return st
	}
}

// TestSuite: what is private behaves as what is containerd's.
func TestSuite(t *testing.T) {
	for name, backend := range backends {
		t.Run(name, func(t *testing.T) {
			storetest.Suite(t, func(t *testing.T) *store.Store {
				open, _ := backend(t, t.TempDir())
				return everything(open())
			})
		})
	}
}

// bed is a store with a lease.
type bed struct {
	testing.TB
	containerd *store.Store // where nothing asks for it to be private
	*store.Store
	opening func() *store.Store
	root    string
	trees   string
	ctx     context.Context
}

// onBoth runs a test on each backend.
func onBoth(t *testing.T, test func(b *bed)) {
	for name := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newBed(t, name))
		})
	}
}

func newBed(t testing.TB, backend string) *bed {
	b := &bed{TB: t, root: t.TempDir()}
	b.opening, b.trees = backends[backend](t, b.root)
	b.open()
	b.ctx = b.lease("lease")
	return b
}

func (b *bed) open() {
	b.containerd = b.opening()
	b.Store = everything(b.containerd)
}

func (b *bed) Context(ctx context.Context) context.Context { return b.Store.Context(ctx) }

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bed) lease(id string) context.Context {
	b.Helper()
	ctx := b.Context(context.Background())
	_, err := b.Leases.Create(ctx, leases.WithID(id))
	b.must(err)
	return leases.WithLease(ctx, id)
}

func (b *bed) drop(id string) {
	b.Helper()
	b.must(b.Leases.Delete(b.ctx, leases.Lease{ID: id}))
}

func (b *bed) gc() {
	b.Helper()
	b.must(b.GC(b.ctx))
}

// commit makes a private snapshot with one file of its name.
func (b *bed) commit(ctx context.Context, name, parent string, opts ...snapshots.Opt) {
	b.Helper()
	b.commitIn(ctx, b.Store, name, parent, opts...)
}

// image makes one of containerd's.
func (b *bed) image(ctx context.Context, name, parent string) {
	b.Helper()
	b.commitIn(ctx, b.containerd, name, parent)
}

func (b *bed) commitIn(ctx context.Context, st *store.Store, name, parent string, opts ...snapshots.Opt) {
	b.Helper()
	mounts, err := st.Snapshots.Prepare(ctx, "work-"+name, parent)
	b.must(err)
	b.must(mount.WithTempMount(ctx, mounts, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644)
	}))
	b.must(st.Snapshots.Commit(ctx, name, "work-"+name, opts...))
}

// shows fails unless a view of the snapshot has these files.
func (b *bed) shows(name, want string) {
	b.Helper()
	ctx := b.lease("view-" + name)
	defer b.drop("view-" + name)
	mounts, err := b.Snapshots.View(ctx, "view-"+name, name)
	b.must(err)
	b.must(mount.WithTempMount(ctx, mounts, func(dir string) error {
		entries, err := os.ReadDir(dir)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != want {
			b.Errorf("%s shows %q, want %q", name, got, want)
		}
		return err
	}))
	b.must(b.Snapshots.Remove(ctx, "view-"+name))
}

// names are those that a walk finds.
func (b *bed) names(filter ...string) string {
	b.Helper()
	var found []string
	b.must(b.Snapshots.Walk(b.ctx, func(_ context.Context, info snapshots.Info) error {
		found = append(found, info.Name)
		return nil
	}, filter...))
	slices.Sort(found)
	return strings.Join(found, " ")
}

// dirs is how many trees there are.
func (b *bed) dirs() int {
	b.Helper()
	left, err := os.ReadDir(b.trees)
	b.must(err)
	return len(left)
}

func (b *bed) nothingLeft() {
	b.Helper()
	b.gc()
	if names, dirs := b.names(), b.dirs(); names != "" || dirs != 0 {
		b.Errorf("left: %q and %d trees", names, dirs)
	}
	if found, err := b.Leases.List(b.ctx); err != nil || len(found) > 0 {
		b.Errorf("left: %v, %v", found, err)
	}
}

// TestOnAnImage: private snapshots keep the image's layers that they stand on, and
// no longer than they are there.
func TestOnAnImage(t *testing.T) { onBoth(t, testOnAnImage) }

func testOnAnImage(b *bed) {
	pulled := b.lease("pulled")
	b.image(pulled, "sha256:a", "")
	b.image(pulled, "sha256:b", "sha256:a")
	b.commit(b.ctx, "one", "sha256:b")
	other := b.lease("other")
	b.commit(other, "two", "one")
	b.drop("pulled")
	b.gc()
	if got := b.names(); got != "one sha256:a sha256:b two" {
		b.Errorf("there are %q", got)
	}
	if info, err := b.Snapshots.Stat(b.ctx, "one"); err != nil || info.Parent != "sha256:b" {
		b.Errorf("one is %+v, %v", info, err)
	}
	b.drop("lease") // two needs one
	b.gc()
	b.shows("two", "one sha256:a sha256:b two")
	b.drop("other")
	b.nothingLeft()
}

// TestPublish: an image gets private snapshots without a copy, and each may go
// without the other.
func TestPublish(t *testing.T) {
	for _, first := range []string{"lease", "image"} {
		t.Run(first, func(t *testing.T) {
			onBoth(t, func(b *bed) { testPublish(b, first) })
		})
	}
}

func testPublish(b *bed, first string) {
	image := b.lease("image")
	b.image(image, "sha256:base", "")
	b.commit(b.ctx, "one", "sha256:base")
	b.commit(b.ctx, "two", "one")
	before, err := b.Snapshots.Usage(b.ctx, "two")
	b.must(err)
	for _, l := range [][3]string{{"one", "sha256:base", "sha256:one"}, {"two", "sha256:one", "sha256:two"}} {
		labels, withdraw, err := b.Offer(l[0], l[2])
		b.must(err)
		if _, err := b.containerd.Snapshots.Prepare(image, "unpack", l[1], snapshots.WithLabels(labels)); !errdefs.IsAlreadyExists(err) {
			b.Fatalf("%s: %v", l[0], err)
		}
		withdraw()
	}
	if after, err := b.Snapshots.Usage(b.ctx, "sha256:two"); err != nil || after != before || b.dirs() != 3 {
		b.Errorf("usage was %v, is %v, of %d trees, %v", before, after, b.dirs(), err)
	}
	b.drop(first)
	b.gc()
	rest := map[string]string{"lease": "sha256:two", "image": "two"}[first]
	b.shows(rest, "one sha256:base two")
	if u, err := b.Snapshots.Usage(b.ctx, rest); err != nil || u != before {
		b.Errorf("usage %v, was %v, %v", u, before, err)
	}
	for _, id := range []string{"lease", "image"} {
		if id != first {
			b.drop(id)
		}
	}
	b.nothingLeft()
}

// TestBlobs: a private snapshot keeps the blobs that its labels refer to, as long
// as it is there and refers to them, on whatever lease it is.
func TestBlobs(t *testing.T) { onBoth(t, testBlobs) }

func testBlobs(b *bed) {
	b.commit(b.ctx, "one", "")
	other := b.lease("other")
	b.commit(other, "two", "one")
	const ref = "containerd.io/gc.ref.content.kiln.x"
	blob := func(text string) string {
		desc := ocispec.Descriptor{Digest: digest.FromString(text), Size: int64(len(text))}
		ctx := b.lease("making")
		b.must(content.WriteBlob(ctx, b.Content, text, bytes.NewReader([]byte(text)), desc))
		_, err := b.Snapshots.Update(ctx, snapshots.Info{Name: "one", Labels: map[string]string{ref: desc.Digest.String()}}, "labels."+ref)
		b.must(err)
		b.drop("making")
		return desc.Digest.String()
	}
	blobs := func() (found []string) {
		b.gc()
		b.must(b.Content.Walk(b.ctx, func(info content.Info) error {
			found = append(found, info.Digest.String())
			return nil
		}))
		return found
	}
	first := blob("first")
	if got := blobs(); !slices.Equal(got, []string{first}) {
		b.Errorf("there are %v, want %s", got, first)
	}
	second := blob("second")
	b.drop("lease")
	if got := blobs(); !slices.Equal(got, []string{second}) {
		b.Errorf("there are %v, want %s", got, second)
	}
	b.must(b.Close())
	b.open()
	if got := blobs(); !slices.Equal(got, []string{second}) {
		b.Errorf("after a restart there are %v, want %s", got, second)
	}
	b.drop("other")
	b.nothingLeft()
	if got := blobs(); len(got) > 0 {
		b.Errorf("left: %v", got)
	}
}

// TestHolders: a snapshot lives until the last of its leases ends, or of the
// snapshots that refer to it.
func TestHolders(t *testing.T) { onBoth(t, testHolders) }

func testHolders(b *bed) {
	b.commit(b.ctx, "one", "")
	b.lease("other")
	b.must(b.Leases.AddResource(b.ctx, leases.Lease{ID: "other"}, leases.Resource{ID: "one", Type: "snapshots/" + b.Snapshotter}))
	referring := b.lease("referring")
	b.commit(referring, "two", "", snapshots.WithLabels(map[string]string{"containerd.io/gc.ref.snapshot." + b.Snapshotter: "one"}))
	for _, id := range []string{"lease", "other"} {
		b.drop(id)
		b.gc()
		b.shows("one", "one")
	}
	b.drop("referring")
	b.nothingLeft()
}

// TestUnfinished: with its lease a snapshot goes, whether finished or not.
func TestUnfinished(t *testing.T) { onBoth(t, testUnfinished) }

func testUnfinished(b *bed) {
	b.commit(b.ctx, "a", "")
	_, err := b.Snapshots.Prepare(b.ctx, "unfinished", "a")
	b.must(err)
	if found, err := b.Leases.ListResources(b.ctx, leases.Lease{ID: "lease"}); err != nil || len(found) != 2 {
		b.Errorf("on the lease are %v, %v", found, err)
	}
	b.drop("lease")
	b.nothingLeft()
}

// TestKilled: what a killed process leaves has no more than what is held, and all
// of that if the journal was written.
func TestKilled(t *testing.T) {
	b := newBed(t, "embedded")
	b.image(b.lease("pulled"), "sha256:a", "")
	b.commit(b.ctx, "one", "sha256:a")
	b.commit(b.ctx, "two", "one")
	_, err := b.Snapshots.Prepare(b.ctx, "unfinished", "two", snapshots.WithLabels(map[string]string{snapshotter.LabelTransient: "true"}))
	b.must(err)
	for _, lost := range []string{"nothing", "private/journal.db", "snapshots-overlayfs/engine.db", "private"} {
		left := *b
		left.root = t.TempDir()
		left.opening, left.trees = backends["embedded"](t, left.root)
		// The journal is written behind.
		if lost == "nothing" {
			b.must(b.Close())
		}
		b.must(os.CopyFS(left.root, os.DirFS(b.root)))
		b.must(os.RemoveAll(filepath.Join(left.root, lost)))
		left.open()
		left.gc()
		want, dirs := "one sha256:a two", 3
		if lost != "nothing" {
			want, dirs = "sha256:a", 1
		}
		if got := left.names(); got != want || left.dirs() != dirs {
			t.Errorf("without %s: there are %q and %d trees", lost, got, left.dirs())
		}
		if lost == "nothing" {
			left.shows("two", "one sha256:a two")
		}
	}
}

// TestDamage: a journal that can't be read is dropped, with what it was about.
func TestDamage(t *testing.T) {
	b := newBed(t, "embedded")
	b.commit(b.ctx, "a", "")
	b.must(b.Close())
	b.must(os.WriteFile(filepath.Join(b.root, "private", "journal.db"), make([]byte, 1<<16), 0o600))
	b.open()
	b.nothingLeft()
	b.lease("lease")
}

// TestMeanwhile: snapshots are made on images, with leases that are deleted and
// collections meanwhile. They are there with all below them, or are an error, and
// nothing is left.
func TestMeanwhile(t *testing.T) { onBoth(t, testMeanwhile) }

func testMeanwhile(b *bed) {
	b.image(b.ctx, "sha256:a", "")
	b.image(b.ctx, "sha256:b", "sha256:a")
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 60 {
				id := fmt.Sprint("lease-", worker, "-", i)
				ctx := leases.WithLease(b.Context(context.Background()), id)
				if _, err := b.Leases.Create(ctx, leases.WithID(id)); err != nil {
					b.Error(err)
				}
				if i%10 == worker {
					if err := b.GC(ctx); err != nil {
						b.Error(err)
					}
				}
				var both sync.WaitGroup
				if i%2 == 0 {
					both.Go(func() {
						if err := b.Leases.Delete(ctx, leases.Lease{ID: id}); err != nil {
							b.Error(err)
						}
					})
				}
				err := func() error {
					if _, err := b.Snapshots.Prepare(ctx, "work-"+id, "sha256:b"); err != nil {
						return err
					}
					return b.Snapshots.Commit(ctx, "tree-"+id, "work-"+id)
				}()
				both.Wait()
				if err != nil && !(i%2 == 0 && errdefs.IsNotFound(err)) {
					b.Errorf("%s: %v", id, err)
				}
				if i%2 == 1 {
					if info, err := b.Snapshots.Stat(ctx, "tree-"+id); err != nil || info.Parent != "sha256:b" {
						b.Errorf("%s: %+v, %v", id, info, err)
					}
					if err := b.Leases.Delete(ctx, leases.Lease{ID: id}); err != nil {
						b.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	b.gc()
	if got := b.names(); got != "sha256:a sha256:b" || b.dirs() != 2 {
		b.Errorf("left: %q and %d trees", got, b.dirs())
	}
	b.drop("lease")
	b.nothingLeft()
}

// TestFilters: private snapshots are found by what others are found by, and once.
func TestFilters(t *testing.T) { onBoth(t, testFilters) }

func testFilters(b *bed) {
	b.image(b.ctx, "sha256:a", "")
	b.commit(b.ctx, "b", "sha256:a", snapshots.WithLabels(map[string]string{"x": "y"}))
	_, err := b.Snapshots.Prepare(b.ctx, "c", "b")
	b.must(err)
	for filter, want := range map[string]string{
		"": "b c sha256:a", "kind==committed": "b sha256:a", "kind==active": "c", "name==b": "b", "labels.x==y": "b", "parent==z": "",
	} {
		if got := b.names(filter); got != want {
			b.Errorf("%q: %q, want %q", filter, got, want)
		}
	}
}

// BenchmarkStep prepares and commits what a step makes on an image.
func BenchmarkStep(bb *testing.B) {
	for name := range backends {
		bb.Run(name, func(bb *testing.B) {
			b := newBed(bb, name)
			b.image(b.ctx, "sha256:a", "")
			passing := snapshots.WithLabels(map[string]string{snapshotter.LabelTransient: "true"})
			i := 0
			for bb.Loop() {
				i++
				ctx := b.lease(fmt.Sprint("lease", i))
				_, err := b.Snapshots.Prepare(ctx, fmt.Sprint("work", i), "sha256:a", passing)
				b.must(err)
				b.must(b.Snapshots.Commit(ctx, fmt.Sprint("tree", i), fmt.Sprint("work", i)))
			}
		})
	}
}
