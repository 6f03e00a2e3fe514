package builder

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/platforms"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/registry"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/embedded"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// chain is n snapshots of a block each, each on the one before and on the lease of
// a record of its own, whose id is its number.
type chain struct {
	snapshots.Snapshotter
	n     int
	asked int // how often for a size
}

const block = 4096

func (c *chain) Walk(ctx context.Context, f snapshots.WalkFunc, _ ...string) error {
	for i := range c.n {
		info := snapshots.Info{Kind: snapshots.KindCommitted, Name: strconv.Itoa(i)}
		if i > 0 {
			info.Parent = strconv.Itoa(i - 1)
		}
		if err := f(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

func (c *chain) Usage(context.Context, string) (snapshots.Usage, error) {
	c.asked++
	return snapshots.Usage{Size: block}, nil
}

type chainLeases struct{ leases.Manager }

func (chainLeases) List(context.Context, ...string) ([]leases.Lease, error) { return nil, nil }

func (chainLeases) ListResources(_ context.Context, lease leases.Lease) ([]leases.Resource, error) {
	return []leases.Resource{{ID: lease.ID[strings.LastIndexByte(lease.ID, '/')+1:], Type: "snapshots/chain"}}, nil
}

type noContent struct{ content.Store }

func (noContent) Walk(context.Context, content.WalkFunc, ...string) error { return nil }

type noImages struct{ images.Store }

func (noImages) List(context.Context, ...string) ([]images.Image, error) { return nil, nil }

// chained is a builder with a chain of n records.
func chained(t testing.TB, n int, policies ...cache.Policy) (*Builder, *chain) {
	t.Helper()
	root := t.TempDir()
	st, err := embedded.Open(t.Context(), embedded.Config{Root: filepath.Join(root, "containerd"), Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	sessions := session.NewManager()
	b, err := Open(t.Context(), Config{
		Root: root, Store: st, Sessions: sessions, Registries: registry.New(registry.Config{}, sessions),
		Platforms: []ocispec.Platform{platforms.DefaultSpec()}, Policies: policies,
	})
	if err != nil {
		t.Fatal(errors.Join(err, st.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(b.Close(context.Background()), st.Close()); err != nil {
			t.Error(err)
		}
	})
	begun := time.Now().Add(-time.Hour)
	for i := range n {
		r := cache.Record{ID: cache.ID(strconv.Itoa(i)), Created: begun.Add(time.Duration(i)), Description: cache.Description{Kind: cache.Regular}}
		if i > 0 {
			r.Parents = []cache.ID{cache.ID(strconv.Itoa(i - 1))}
		}
		if err := b.records.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	c := &chain{n: n}
	b.cfg.Store = &store.Store{
		Namespace: "default", Snapshotter: "chain", Root: root,
		Content: noContent{}, Snapshots: c, Leases: chainLeases{}, Images: noImages{},
		Collect: func(context.Context) error { return nil },
	}
	return b, c
}

// TestSurveyIsLinear: ten times as many records on each other take ten times as
// much, not a hundred times.
func TestSurveyIsLinear(t *testing.T) {
	few, short := surveyCosts(t, 1000)
	many, long := surveyCosts(t, 10_000)
	t.Logf("1,000 records: %d bytes, %v; 10,000: %d bytes, %v", few, short, many, long)
	if many > 20*few || long > 50*short {
		t.Errorf("1,000 records take %d bytes and %v, 10,000 %d and %v", few, short, many, long)
	}
}

// surveyCosts is what a list of n records on each other takes, at best.
func surveyCosts(t *testing.T, n int) (bytes uint64, took time.Duration) {
	t.Helper()
	b, _ := chained(t, n)
	for i := range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		begun := time.Now()
		all, err := b.DiskUsage(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); i == 0 || d < took {
			took = d
		}
		runtime.ReadMemStats(&after)
		bytes = after.TotalAlloc - before.TotalAlloc
		var total int64
		for _, u := range all {
			total += u.Size
		}
		if len(all) != n || total != int64(n)*block {
			t.Fatalf("%d records of %d, with %d bytes", len(all), n, total)
		}
	}
	return bytes, took
}

// TestCollectMeasuresNothingInVain: sizes are asked for only where a policy may
// have something to remove.
func TestCollectMeasuresNothingInVain(t *testing.T) {
	const plenty = 1 << 60 // bytes
	for name, c := range map[string]struct {
		policy   cache.Policy
		measures bool
	}{
		"room":            {cache.Policy{MaxUsedSpace: plenty, MinFreeSpace: 1}, false},
		"reserved":        {cache.Policy{ReservedSpace: plenty, MinFreeSpace: plenty}, false},
		"nothing is old":  {cache.Policy{All: true, KeepDuration: 24 * time.Hour}, false},
		"nothing is so":   {cache.Policy{All: true, Filters: []string{"type==exec.cachemount"}}, false},
		"used too much":   {cache.Policy{MaxUsedSpace: 1 << 20}, true},
		"free too little": {cache.Policy{MinFreeSpace: plenty}, true},
		"all old":         {cache.Policy{KeepDuration: time.Minute, MaxUsedSpace: 1 << 20}, true},
		"shared":          {cache.Policy{All: true, Filters: []string{"shared"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b, store := chained(t, 10, c.policy)
			if err := b.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if store.asked > 0 != c.measures {
				t.Errorf("asked for %d sizes", store.asked)
			}
		})
	}
}
