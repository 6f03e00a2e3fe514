package snapshotter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Snapshotter is the snapshotter that containerd sees. It is safe for concurrent
// use.
type Snapshotter struct {
	*space
	engine  *space
	syncing syncing
	lock    *os.File
	closing sync.Once
	closed  error
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// Config says where the snapshots are.
type Config struct {
	// Root is a directory of this snapshotter alone; made if absent. Below it are
	//
	//	containerd.db  the names of containerd
	//	engine.db      the names of the engine
	//	dirs/ID/fs     what a layer changes; dirs/ID/work is overlayfs's
	//	empty          what views of nothing show
	//	boot           the boot id of the run in which engine.db was last open
	//	lock
	Root string
	// Lazy shows layers without unpacking them; nil for none.
	Lazy Lazy
	// Own: nobody but this process uses the snapshots, and whoever opens them
	// throws all of Root away after a crash of the machine. So nothing is synced,
	// and Close unmounts lazy layers.
	Own bool
}

// lockWait is how long Open waits for a process that is ending.
const lockWait = 5 * time.Second

// Open opens the snapshots below cfg.Root; end it with Close. What a killed
// process left is put in order. It fails with errdefs.ErrUnavailable where
// another process has them open.
func Open(ctx context.Context, cfg Config) (_ *Snapshotter, err error) {
	root, err := filepath.Abs(cfg.Root)
	if err != nil || cfg.Root == "" {
		return nil, fmt.Errorf("snapshotter: bad root directory %q", cfg.Root)
	}
	for _, dir := range []string{root, filepath.Join(root, "dirs"), filepath.Join(root, "empty")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("snapshotter: %w", err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "empty"), 0o755); err != nil {
		return nil, fmt.Errorf("snapshotter: %w", err)
	}
	d := &disk{root: root, own: cfg.Own, lazy: cfg.Lazy, limits: defaultLimits, nodes: map[string]*node{}, tickets: map[string]ticket{}}
	if d.options, err = overlayOptions(root); err != nil {
		return nil, err
	}
	s := &Snapshotter{space: &space{disk: d, which: public}, engine: &space{disk: d, which: private}}
	if s.lock, err = lockRoot(root); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeAll())
		}
	}()
	d.removal.start(ctx, s.removeAll)
	s.syncing.sync = func() error { return syncFilesystem(root) }
	crashed := false
	if !d.own {
		if crashed, err = dropSpoiled(ctx, root); err != nil {
			return nil, err
		}
	}
	if err := s.space.open(filepath.Join(root, "containerd.db")); err != nil {
		return nil, err
	}
	if err := s.openEngine(ctx); err != nil {
		return nil, err
	}
	return s, s.reconcile(ctx, crashed)
}

// openEngine opens the engine's names. They are cache, so that a damaged
// database is no reason to fail.
func (s *Snapshotter) openEngine(ctx context.Context) error {
	path := filepath.Join(s.root, "engine.db")
	err := s.engine.open(path)
	if err == nil || errors.Is(err, unix.ENOSPC) {
		return err
	}
	log.G(ctx).WithError(err).Warn("the engine's snapshots are dropped")
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("snapshotter: %w", err)
	}
	return s.engine.open(path)
}

func (s *Snapshotter) spaces() []*space { return []*space{s.space, s.engine} }

// overlayOptions are those of every overlay mount on this machine.
func overlayOptions(root string) ([]string, error) {
	ok, err := fs.SupportsDType(root)
	if err != nil {
		return nil, fmt.Errorf("snapshotter: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("snapshotter: the filesystem of %s lacks d_type, which overlayfs needs; choose another root (xfs: format with ftype=1): %w", root, errdefs.ErrFailedPrecondition)
	}
	var options []string
	if userxattr, err := overlayutils.NeedsUserXAttr(root); err == nil && userxattr {
		options = append(options, "userxattr")
	}
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		options = append(options, "index=off")
	}
	return options, nil
}

// open opens the space's database and reads it.
func (sp *space) open(path string) (err error) {
	o := *bolt.DefaultOptions
	o.Timeout, o.NoStatistics = lockWait, true
	o.NoFreelistSync, o.FreelistType = true, bolt.FreelistMapType
	o.NoSync = sp.own || sp.which == private
	o.NoGrowSync = o.NoSync
	sp.entries = map[string]*entry{}
	if sp.db, err = bolt.Open(path, 0o600, &o); err != nil {
		return fmt.Errorf("open %s, move it away if it is damaged: %w", path, err)
	}
	err = sp.db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketNames, bucketDirs} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = sp.db.View(sp.load)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("read %s, move it away if it is damaged: %w", path, err), sp.db.Close())
		sp.db = nil
	}
	return err
}

// load reads the database into the tables. Directories that the other space has
// read are the same.
func (sp *space) load(tx *bolt.Tx) error {
	records := map[string]dirRecord{}
	err := tx.Bucket(bucketDirs).ForEach(func(id, data []byte) error {
		var r dirRecord
		err := json.Unmarshal(data, &r)
		records[string(id)] = r
		return err
	})
	if err != nil {
		return err
	}
	loaded := map[string]*entry{}
	err = tx.Bucket(bucketNames).ForEach(func(name, data []byte) error {
		var r nameRecord
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		e := &entry{name: string(name), kind: r.Kind, parent: r.Parent, labels: r.Labels, created: r.Created, updated: r.Updated, unsynced: r.Unsynced}
		loaded[e.name] = e
		if r.Dir != "" {
			e.node, err = sp.loadNode(records, r.Dir, 0)
		}
		return err
	})
	if err != nil {
		return err
	}
	sp.entries = loaded
	for _, e := range loaded {
		e.node.pin()
		sp.add(e)
	}
	return nil
}

// loadNode makes the directory with the id and all below it. A chain longer
// than any that can be mounted goes in a circle.
func (sp *space) loadNode(records map[string]dirRecord, id string, depth int) (*node, error) {
	if n := sp.nodes[id]; n != nil {
		return n, nil
	}
	r, ok := records[id]
	if !ok || depth > 10000 {
		return nil, fmt.Errorf("directory %q isn't there or stands on itself: %w", id, errdefs.ErrDataLoss)
	}
	number, err := strconv.ParseUint(id, 36, 64)
	if err != nil {
		return nil, fmt.Errorf("directory %q: %w", id, err)
	}
	n := &node{id: id, lazy: r.Lazy, usage: r.Usage}
	if r.Parent != "" {
		if n.parent, err = sp.loadNode(records, r.Parent, depth+1); err != nil {
			return nil, err
		}
		n.parent.refs++
	}
	sp.nextID = max(sp.nextID, number)
	sp.nodes[id] = n
	return n, nil
}
