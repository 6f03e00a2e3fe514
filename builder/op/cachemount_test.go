package op

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
)

const (
	shared  = pb.CacheSharingOpt_SHARED
	private = pb.CacheSharingOpt_PRIVATE
	locked  = pb.CacheSharingOpt_LOCKED
)

// soon bounds what must not take long, and notYet is how long is waited for what must
// not happen.
const (
	soon   = 20 * time.Second
	notYet = 50 * time.Millisecond
)

// keeper does what a test wants when a cache mount is opened and given back.
type keeper struct {
	keepNothing
	keep    func(ctx context.Context) error
	release func()
}

func (k *keeper) Keep(ctx context.Context, _, _ string) (context.Context, func(), error) {
	if k.keep != nil {
		if err := k.keep(ctx); err != nil {
			return nil, nil, err
		}
	}
	return ctx, func() {
		if k.release != nil {
			k.release()
		}
	}, nil
}

// getting is a call of Get that may have to wait.
type getting struct {
	got chan *MountedCache
	err chan error
}

func get(ctx context.Context, c *CacheMounts, want CacheMount) getting {
	g := getting{make(chan *MountedCache, 1), make(chan error, 1)}
	go func() {
		m, err := c.Get(ctx, want)
		if err != nil {
			g.err <- err
			return
		}
		g.got <- m
	}()
	return g
}

func (g getting) mounted(t *testing.T) *MountedCache {
	t.Helper()
	select {
	case m := <-g.got:
		return m
	case err := <-g.err:
		t.Fatal(err)
	case <-time.After(soon):
		t.Fatal("it is still waited for")
	}
	return nil
}

func (g getting) waits(t *testing.T) {
	t.Helper()
	select {
	case m := <-g.got:
		t.Fatalf("it was not waited for: %s", m.Dir)
	case err := <-g.err:
		t.Fatal(err)
	case <-time.After(notYet):
	}
}

// mark puts a file into a cache mount, and marked looks for it.
func (m *MountedCache) mark(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(m.Dir+"/mark", nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (m *MountedCache) marked() bool {
	_, err := os.Stat(m.Dir + "/mark")
	return err == nil
}

// TestCacheSharing: who shares a cache mount, who waits, and who gets another one.
func TestCacheSharing(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	for _, c := range []struct {
		has, wants pb.CacheSharingOpt
		then       string
	}{
		{shared, shared, "shares"}, {shared, private, "another"}, {shared, locked, "waits"},
		{private, shared, "another"}, {private, private, "another"}, {private, locked, "waits"},
		{locked, shared, "waits"}, {locked, private, "another"}, {locked, locked, "waits"},
	} {
		t.Run(fmt.Sprintf("%s %s", c.has, c.wants), func(t *testing.T) {
			mounts := NewCacheMounts(b.layers, keepNothing{})
			first := get(b.ctx, mounts, CacheMount{ID: t.Name(), Sharing: c.has}).mounted(t)
			first.mark(t)
			second := get(b.ctx, mounts, CacheMount{ID: t.Name(), Sharing: c.wants})
			if c.then == "waits" {
				second.waits(t)
				first.Release()
			}
			m := second.mounted(t)
			if m.marked() == (c.then == "another") {
				t.Errorf("the one of before: %v", m.marked())
			}
			m.Release()
			first.Release()
			again := get(b.ctx, mounts, CacheMount{ID: t.Name(), Sharing: c.has}).mounted(t)
			if !again.marked() {
				t.Error("afterwards another one is used")
			}
			again.Release()
		})
	}
}

// TestCacheMounterCancelled ends the build that was to mount a cache mount for others
// too: they get it nevertheless, from one of them.
func TestCacheMounterCancelled(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	for _, sharing := range []pb.CacheSharingOpt{shared, locked} {
		begun := make(chan struct{})
		var once sync.Once
		mounts := NewCacheMounts(b.layers, &keeper{keep: func(ctx context.Context) error {
			first := false
			once.Do(func() { first = true })
			if !first {
				return nil
			}
			close(begun)
			<-ctx.Done()
			return context.Cause(ctx)
		}})
		want := CacheMount{ID: t.Name() + sharing.String(), Sharing: sharing}
		ctx, cancel := context.WithCancel(b.ctx)
		first := get(ctx, mounts, want)
		<-begun
		others := []getting{get(b.ctx, mounts, want), get(b.ctx, mounts, want)}
		for _, o := range others {
			o.waits(t)
		}
		cancel()
		if err := <-first.err; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: the first got %v", sharing, err)
		}
		for range others {
			select {
			case m := <-others[0].got:
				m.Release()
			case m := <-others[1].got:
				m.Release()
			case err := <-others[0].err:
				t.Errorf("%s: the second got %v", sharing, err)
			case err := <-others[1].err:
				t.Errorf("%s: the third got %v", sharing, err)
			case <-time.After(soon):
				t.Fatalf("%s: nobody gets it", sharing)
			}
		}
		if len(mounts.inUse) != 0 {
			t.Errorf("%s: in use: %v", sharing, mounts.inUse)
		}
	}
}

// TestCacheWaiterCancelled: who waits for a cache mount says so when its build ends,
// and that is nobody else's harm. Who has it may be cancelled too.
func TestCacheWaiterCancelled(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	mounts := NewCacheMounts(b.layers, keepNothing{})
	want := CacheMount{ID: "packages", Sharing: locked}
	holder := get(b.ctx, mounts, want).mounted(t)
	ctx, cancel := context.WithCancel(b.ctx)
	leaves, stays := get(ctx, mounts, want), get(b.ctx, mounts, want)
	leaves.waits(t)
	stays.waits(t)
	cancel()
	if err := <-leaves.err; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), `cache mount "packages", which another step uses`) {
		t.Errorf("got %v", err)
	}
	stays.waits(t)
	holder.Release()
	stays.mounted(t).Release()
}

// TestCacheUnmountTakesTime: nobody waits for the end of another cache mount, and who
// wants that one gets it after its end.
func TestCacheUnmountTakesTime(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	gate := make(chan struct{})
	mounts := NewCacheMounts(b.layers, &keeper{release: func() { <-gate }})
	m := get(b.ctx, mounts, CacheMount{ID: "slow"}).mounted(t)
	m.mark(t)
	go m.Release()
	time.Sleep(notYet)
	get(b.ctx, mounts, CacheMount{ID: "other"}).mounted(t)
	again := get(b.ctx, mounts, CacheMount{ID: "slow", Sharing: private})
	again.waits(t)
	close(gate)
	if !again.mounted(t).marked() {
		t.Error("another one was made")
	}
}

// TestCacheMountsInOrder has two steps lock the same cache mounts, which they show in
// another order.
func TestCacheMountsInOrder(t *testing.T) {
	t.Parallel()
	b := newExecBench(t)
	cache := func(dest, id string) *pb.Mount {
		return &pb.Mount{Dest: dest, Input: -1, Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: id, Sharing: locked}}
	}
	ctx, cancel := context.WithTimeout(b.ctx, soon)
	defer cancel()
	var both sync.WaitGroup
	for _, mounts := range [][]*pb.Mount{
		{cache("/a", "x"), cache("/b", "y")},
		{cache("/a", "y"), cache("/b", "x")},
	} {
		both.Go(func() {
			for range 50 {
				m := newMounting(b.cfg, schedule.Job{}, nil)
				err := m.all(ctx, mounts)
				m.close(ctx)
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	both.Wait()
}
