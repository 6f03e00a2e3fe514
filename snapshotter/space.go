package snapshotter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// A space's database has two buckets, of JSON:
//
//	names  name -> nameRecord
//	dirs   id   -> dirRecord, for all directories that the names lead to, and
//	               those below them
var (
	bucketNames = []byte("names")
	bucketDirs  = []byte("dirs")
)

type nameRecord struct {
	Kind    snapshots.Kind
	Dir     string            `json:",omitempty"`
	Parent  string            `json:",omitempty"` // a name
	Labels  map[string]string `json:",omitempty"`
	Created time.Time
	Updated time.Time
	// Unsynced: the name is to be dropped after a crash of the machine.
	Unsynced bool `json:",omitempty"`
}

type dirRecord struct {
	Parent string            `json:",omitempty"` // an id
	Lazy   map[string]string `json:",omitempty"`
	Usage  *snapshots.Usage  `json:",omitempty"`
}

// Which space it is, for node.recorded.
const (
	public = iota
	private
)

// space is names of snapshots, on disk and in memory. Its methods are those of
// [snapshots.Snapshotter].
type space struct {
	*disk
	which int
	db    *bolt.DB

	// write is held by whoever changes names, from the decision until it is both
	// on disk and in memory. Readers only wait for the latter.
	write   sync.Mutex
	entries map[string]*entry // guarded by disk.mu
}

// find returns the entry with the name; d.mu is held.
func (sp *space) find(name string) (*entry, error) {
	e := sp.entries[name]
	if e == nil {
		return nil, fmt.Errorf("snapshot %q: %w", name, errdefs.ErrNotFound)
	}
	return e, nil
}

// findCommitted returns the entry that something may stand on; nil for "".
func (sp *space) findCommitted(name string) (*entry, error) {
	if name == "" {
		return nil, nil
	}
	e, err := sp.find(name)
	if err != nil {
		return nil, fmt.Errorf("parent %w", err)
	}
	if e.kind != snapshots.KindCommitted {
		return nil, fmt.Errorf("parent snapshot %q isn't committed: %w", name, errdefs.ErrInvalidArgument)
	}
	return e, nil
}

// dir is the directory of an entry, which may be nil.
func (e *entry) dir() *node {
	if e == nil {
		return nil
	}
	return e.node
}

// put writes an entry with all directories that it leads to, if it is to be on
// disk. sp.write is held.
func (sp *space) put(e *entry) error {
	if e.transient() {
		return nil
	}
	return sp.update(func(tx *bolt.Tx) error { return sp.putEntry(tx, e) })
}

func (sp *space) update(fn func(tx *bolt.Tx) error) error {
	if err := sp.db.Update(fn); err != nil {
		if errors.Is(err, berrors.ErrDatabaseNotOpen) {
			err = errdefs.ErrUnavailable
		}
		return fmt.Errorf("write %s: %w", sp.db.Path(), err)
	}
	return nil
}

func (sp *space) putEntry(tx *bolt.Tx, e *entry) error {
	r := nameRecord{Kind: e.kind, Parent: e.parent, Labels: e.labels, Created: e.created, Updated: e.updated, Unsynced: e.unsynced}
	if e.node != nil {
		r.Dir = e.node.id
	}
	if err := putJSON(tx.Bucket(bucketNames), e.name, r); err != nil {
		return err
	}
	for i, n := range e.node.chain() {
		if i > 0 && n.recorded[sp.which] {
			return nil
		}
		if err := sp.putNode(tx, n); err != nil {
			return err
		}
	}
	return nil
}

func (sp *space) putNode(tx *bolt.Tx, n *node) error {
	sp.mu.RLock()
	r := dirRecord{Lazy: n.lazy, Usage: n.usage}
	sp.mu.RUnlock()
	if n.parent != nil {
		r.Parent = n.parent.id
	}
	return putJSON(tx.Bucket(bucketDirs), n.id, r)
}

func putJSON(b *bolt.Bucket, key string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), data)
}

// add makes an entry that is on disk part of the tables. The pin that the
// caller has on its directory becomes the entry's. d.mu is held.
func (sp *space) add(e *entry) {
	e.private = sp.which == private
	sp.entries[e.name] = e
	if p := sp.entries[e.parent]; p != nil {
		p.children++
	}
	for _, n := range e.node.chain() {
		n.recorded[sp.which] = n.recorded[sp.which] || !e.transient()
	}
	if e.counts() && e.node != nil {
		e.node.names = append(e.node.names, e)
	}
}

// drop is the opposite of add, but for the pin. d.mu is held.
func (sp *space) drop(e *entry) {
	delete(sp.entries, e.name)
	if p := sp.entries[e.parent]; p != nil {
		p.children--
	}
	if e.node == nil {
		return
	}
	for i, other := range e.node.names {
		if other == e {
			e.node.names = append(e.node.names[:i:i], e.node.names[i+1:]...)
			return
		}
	}
}

// forget removes directories from the database.
func (sp *space) forget(gone []*node) error {
	sp.write.Lock()
	defer sp.write.Unlock()
	var known []*node
	for _, n := range gone {
		if n.recorded[sp.which] {
			known = append(known, n)
		}
	}
	if len(known) == 0 {
		return nil
	}
	return sp.update(func(tx *bolt.Tx) error {
		for _, n := range known {
			if err := tx.Bucket(bucketDirs).Delete([]byte(n.id)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Stat implements [snapshots.Snapshotter].
func (sp *space) Stat(_ context.Context, name string) (snapshots.Info, error) {
	sp.mu.RLock()
	defer sp.mu.RUnlock()
	e, err := sp.find(name)
	if err != nil {
		return snapshots.Info{}, err
	}
	return e.info(), nil
}
