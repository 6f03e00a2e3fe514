package op

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"strconv"
	"sync"

	"github.com/kiln-build/kiln/builder/layer"
	"github.com/moby/buildkit/solver/pb"
)

// CacheMounts are the directories that steps share beside the graph: they
// outlive builds and are in no key.
type CacheMounts struct {
	layers *layer.Store
	keeper Keeper

	mu    sync.Mutex
	open  map[string]*openCache // by name
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

// openCache is a cache mount that is mounted.
type openCache struct {
	ready     chan struct{}
	err       error
	dir       string
	workspace *layer.Workspace
	release   func()
	users     int
}

// NewCacheMounts serves cache mounts out of layers.
func NewCacheMounts(layers *layer.Store, keeper Keeper) *CacheMounts {
	return &CacheMounts{layers: layers, keeper: keeper, open: map[string]*openCache{}, freed: make(chan struct{})}
}

// CacheMount says which cache mount is wanted.
type CacheMount struct {
	ID      string
	Sharing pb.CacheSharingOpt
	// Seed is what a new cache mount has in it. Other seeds, other mounts.
	Seed *layer.Layer
	// Fresh empties the cache mount first, unless somebody uses it.
	Fresh bool
}

// MountedCache is a cache mount in use.
type MountedCache struct {
	// Dir is where it is mounted, writable.
	Dir     string
	Release func()
}

// Get mounts a cache mount. A locked one that is in use is waited for; of a
// private one that is in use, another is made.
func (c *CacheMounts) Get(ctx context.Context, want CacheMount) (*MountedCache, error) {
	for n := 0; ; {
		name := cacheName(want, n)
		o, mine, freed := c.take(name, want.Sharing)
		switch {
		case o == nil && want.Sharing == pb.CacheSharingOpt_PRIVATE:
			n++
			continue
		case o == nil:
			select {
			case <-freed:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		if mine {
			o.err = c.mount(ctx, o, name, want)
			close(o.ready)
		}
		select {
		case <-o.ready:
		case <-ctx.Done():
			go func() { <-o.ready; c.put(name, o) }()
			return nil, context.Cause(ctx)
		}
		if o.err != nil {
			c.put(name, o)
			return nil, o.err
		}
		return &MountedCache{Dir: o.dir, Release: sync.OnceFunc(func() { c.put(name, o) })}, nil
	}
}

// cacheName names the nth cache mount of an id.
func cacheName(want CacheMount, n int) string {
	seed := ""
	if want.Seed != nil {
		seed = want.Seed.Name
	}
	sum := sha256.Sum256([]byte(want.ID + "\x00" + seed))
	name := "cachemount-" + hex.EncodeToString(sum[:16])
	if n > 0 {
		name += "-" + strconv.Itoa(n)
	}
	return name
}

// take joins or opens a cache mount; it gives nil where that has to wait until
// freed. The one it is mine for has to mount it.
func (c *CacheMounts) take(name string, sharing pb.CacheSharingOpt) (_ *openCache, mine bool, freed chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.open[name]
	if o == nil {
		o = &openCache{ready: make(chan struct{}), users: 1}
		c.open[name] = o
		return o, true, nil
	}
	if sharing != pb.CacheSharingOpt_SHARED {
		return nil, false, c.freed
	}
	o.users++
	return o, false, nil
}

func (c *CacheMounts) mount(ctx context.Context, o *openCache, name string, want CacheMount) error {
	if want.Fresh {
		if err := c.keeper.Drop(ctx, name); err != nil {
			return err
		}
	}
	lctx, release, err := c.keeper.Keep(ctx, name, "cached mount "+path.Clean(want.ID))
	if err != nil {
		return err
	}
	o.release = release
	if o.workspace, err = c.layers.OpenWorkspace(lctx, name, want.Seed); err != nil {
		return err
	}
	o.dir, err = o.workspace.Dir(lctx)
	return err
}

// put ends one use; the last one unmounts.
func (c *CacheMounts) put(name string, o *openCache) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.users--; o.users > 0 {
		return
	}
	if o.workspace != nil {
		_ = o.workspace.Unmount() // what stays is unmounted at the end of the layer store
	}
	if o.release != nil {
		o.release()
	}
	delete(c.open, name)
	close(c.freed)
	c.freed = make(chan struct{})
}
