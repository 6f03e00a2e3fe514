package op

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
	"sync"

	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/moby/buildkit/solver/pb"
)

// CacheMounts are the directories that steps share beside the graph: they
// outlive builds and are in no key.
type CacheMounts struct {
	layers *layer.Store
	keeper Keeper

	mu    sync.Mutex
	inUse map[string]*openCache // by name
	freed chan struct{}         // closed and replaced whenever one is released
}

// Keeper keeps cache mounts in the books of the cache.
type Keeper interface {
	// Keep returns a context whose lease holds the named cache mount from being
	// collected, and holds its record from being removed until release.
	Keep(ctx context.Context, name, description string) (_ context.Context, release func(), _ error)
	// Drop removes the cache mount.
	Drop(ctx context.Context, name string) error
}

// openCache is a cache mount that somebody uses.
type openCache struct {
	name    string
	sharing pb.CacheSharingOpt // of who opened it
	ready   chan struct{}      // closed when it is mounted, or can't be
	err     error              // why not; it is not open any more then
	users   int                // 0 while it is being unmounted

	dir       string
	ids       *idmap.Map // of the processes that it is mounted for
	workspace *layer.Workspace
	release   func()
}

// NewCacheMounts serves cache mounts out of layers.
func NewCacheMounts(layers *layer.Store, keeper Keeper) *CacheMounts {
	return &CacheMounts{layers: layers, keeper: keeper, inUse: map[string]*openCache{}, freed: make(chan struct{})}
}

// CacheMount says which cache mount is wanted.
type CacheMount struct {
	ID      string
	Sharing pb.CacheSharingOpt
	// Seed is what a new cache mount has in it. Other seeds, other mounts.
	Seed *layer.Layer
	// Users are those of the process that it is for.
	Users *idmap.Map
	// Fresh empties the cache mount first, unless somebody uses it.
	Fresh bool
}

// MountedCache is a cache mount in use.
type MountedCache struct {
	// Dir is where it is mounted, writable.
	Dir     string
	Release func()
}

// Get mounts a cache mount. One that is in use is waited for if either use is to be
// locked, or by processes with other users; of one that is in use where either use is to
// be private, another is made.
// Who wants several has to ask for them in the order of their names: somebody else may
// have one and wait for another.
func (c *CacheMounts) Get(ctx context.Context, want CacheMount) (*MountedCache, error) {
	for {
		o, mine, freed := c.take(want)
		if o == nil {
			select {
			case <-freed:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("wait for cache mount %q, which another step uses: %w", want.ID, context.Cause(ctx))
			}
		}
		if mine {
			if err := c.mount(ctx, o, want); err != nil {
				return nil, err
			}
		}
		select {
		case <-o.ready:
		case <-ctx.Done():
			go func() { <-o.ready; c.put(o) }()
			return nil, fmt.Errorf("wait for cache mount %q: %w", want.ID, context.Cause(ctx))
		}
		if o.err == nil {
			return &MountedCache{Dir: o.dir, Release: sync.OnceFunc(func() { c.put(o) })}, nil
		}
		// Who was to mount it has failed, perhaps because nobody waits for that step
		// any more. That is no reason for this one.
	}
}

// name is that of the nth cache mount with the id and seed.
func (m CacheMount) name(n int) string {
	seed := ""
	if m.Seed != nil {
		seed = m.Seed.Name
	}
	sum := sha256.Sum256([]byte(m.ID + "\x00" + seed))
	name := "cachemount-" + hex.EncodeToString(sum[:16])
	if n > 0 {
		name += "-" + strconv.Itoa(n)
	}
	return name
}

// take joins or opens a cache mount; it gives nil where that has to wait until
// freed. The one it is mine for has to mount it.
func (c *CacheMounts) take(want CacheMount) (_ *openCache, mine bool, freed <-chan struct{}) {
	const shared, private = pb.CacheSharingOpt_SHARED, pb.CacheSharingOpt_PRIVATE
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 0; ; n++ {
		name := want.name(n)
		o := c.inUse[name]
		switch {
		case o == nil:
			o = &openCache{name: name, sharing: want.Sharing, ready: make(chan struct{}), ids: want.Users, users: 1}
			c.inUse[name] = o
			return o, true, nil
		case o.users == 0:
			return nil, false, c.freed
		case o.sharing == shared && want.Sharing == shared && o.ids == want.Users:
			o.users++
			return o, false, nil
		case want.Sharing == private || o.sharing == private && want.Sharing == shared:
			continue
		default:
			return nil, false, c.freed
		}
	}
}

// mount mounts what was taken, or gives it up.
func (c *CacheMounts) mount(ctx context.Context, o *openCache, want CacheMount) error {
	defer close(o.ready)
	if o.err = c.open(ctx, o, want); o.err != nil {
		c.end(o)
	}
	return o.err
}

func (c *CacheMounts) open(ctx context.Context, o *openCache, want CacheMount) error {
	if want.Fresh {
		if err := c.keeper.Drop(ctx, o.name); err != nil {
			return err
		}
	}
	lctx, release, err := c.keeper.Keep(ctx, o.name, "cached mount "+path.Clean(want.ID))
	if err != nil {
		return err
	}
	o.release = release
	if o.workspace, err = c.layers.OpenWorkspace(lctx, o.name, want.Seed); err != nil {
		return err
	}
	o.dir, err = o.workspace.DirFor(want.Users)
	return err
}

// put ends one use; the last one unmounts.
func (c *CacheMounts) put(o *openCache) {
	if o.err != nil {
		return
	}
	c.mu.Lock()
	o.users--
	last := o.users == 0
	c.mu.Unlock()
	if last {
		c.end(o)
	}
}

// end unmounts, which may take its time, and lets others have it.
func (c *CacheMounts) end(o *openCache) {
	if o.workspace != nil {
		_ = o.workspace.Unmount() // what stays is unmounted at the end of the layer store
	}
	if o.release != nil {
		o.release()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.inUse, o.name)
	close(c.freed)
	c.freed = make(chan struct{})
}
