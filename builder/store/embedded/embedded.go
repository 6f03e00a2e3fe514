// Package embedded runs containerd's stores in this process, on a directory of
// its own: no containerd has to be installed. The parts are containerd's
// libraries put together by hand rather than by its plugin registry, which is
// global to the process and brings services that nobody here would call.
//
// Below the root lie meta.db (containerd's metadata schema), content, one
// directory per snapshotter, what is private (see store/private), and the mark
// that [Wipe] explains.
//
// The databases are written without fsync: a killed process loses nothing, a
// machine that loses power may leave them torn. See [MarkClean].
package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/private"
	"github.com/kiln-build/kiln/snapshotter"
)

// Config says where a store lies and how it keeps trees.
type Config struct {
	// Root is the directory that holds everything; made with mode 0700.
	Root string
	// Namespace is containerd's; "" is [DefaultNamespace].
	Namespace string
	// Snapshotter is "overlayfs" (kiln's own, see package snapshotter),
	// "fuse-overlayfs", "native", or "auto" (or "") for the first of these that
	// works on Root's filesystem.
	Snapshotter string
	// Lazy shows layers of "overlayfs" without unpacking them; nil for none.
	Lazy snapshotter.Lazy
}

// DefaultNamespace is the namespace that containerd's own clients use.
const DefaultNamespace = "default"

// lockWait is how long Open waits for a process that is about to exit.
const lockWait = 2 * time.Second

// Open opens the store below cfg.Root, made if absent. What a machine that
// crashed may have spoiled is removed first. It fails with a message that says
// so when another process has the store open.
func Open(ctx context.Context, cfg Config) (*store.Store, error) {
	if cfg.Root == "" {
		return nil, errors.New("embedded store: no root directory given")
	}
	if cfg.Namespace == "" {
		cfg.Namespace = DefaultNamespace
	}
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("embedded store: %w", err)
	}
	if err := os.Chmod(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("embedded store: %w", err)
	}
	unlock, err := lock(cfg.Root)
	if err != nil {
		return nil, err
	}
	st, err := open(ctx, cfg)
	if err != nil {
		unlock()
		return nil, err
	}
	closeParts := st.Close
	st.Close = func() error {
		defer unlock()
		return closeParts()
	}
	return st, nil
}

// open needs the lock on the root.
func open(ctx context.Context, cfg Config) (_ *store.Store, err error) {
	var closers []func() error
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(closers))
		}
	}()
	if err := dropProbes(cfg.Root); err != nil {
		return nil, err
	}
	if err := dropSpoiled(cfg.Root); err != nil {
		return nil, err
	}
	if err := dropDamaged(ctx, cfg.Root); err != nil {
		return nil, err
	}
	name, sn, err := openSnapshotter(ctx, cfg)
	if err != nil {
		return nil, err
	}
	closers = append(closers, sn.Close)
	blobs, err := openBlobs(filepath.Join(cfg.Root, "content"))
	if err != nil {
		return nil, err
	}
	closers = append(closers, blobs.close)
	bdb, err := openBolt(filepath.Join(cfg.Root, "meta.db"))
	if err != nil {
		return nil, err
	}
	closers = append(closers, bdb.Close)
	db := metadata.NewDB(bdb, blobs, map[string]snapshots.Snapshotter{name: sn})
	if err := db.Init(ctx); err != nil {
		return nil, fmt.Errorf("embedded store: metadata: %w", err)
	}
	gc := startCollector(ctx, db)
	closers = append(closers, gc.stop)

	cs := db.ContentStore()
	st := &store.Store{
		Content:     cs,
		Snapshots:   db.Snapshotter(name),
		Leases:      leaseManager{metadata.NewLeaseManager(db), gc},
		Images:      imageStore{metadata.NewImageStore(db), gc},
		Applier:     applier{cs},
		Namespace:   cfg.Namespace,
		Snapshotter: name,
		Root:        cfg.Root,
		Overhead:    func() (int64, error) { return overhead(cfg.Root) },
		Collect:     gc.collect,
		Close:       func() error { return closeAll(closers) },
	}
	if own, ok := sn.(*snapshotter.Snapshotter); ok {
		return private.Wrap(ctx, st, own, filepath.Join(cfg.Root, "private"))
	}
	return st, nil
}

// closeAll closes in reverse order.
func closeAll(closers []func() error) error {
	var errs []error
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	return errors.Join(errs...)
}

// openBolt opens a database that is never synced.
func openBolt(path string) (*bolt.DB, error) {
	opts := *bolt.DefaultOptions
	unsynced(&opts)
	db, err := bolt.Open(path, 0o600, &opts)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use by another process", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w (it is only a cache: it may be removed, with everything beside it)", path, err)
	}
	return db, nil
}

func unsynced(o *bolt.Options) {
	o.NoSync = true
	o.NoGrowSync = true
	o.NoFreelistSync = true
	o.NoStatistics = true
	o.Timeout = lockWait
}
