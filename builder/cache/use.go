package cache

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Acquire keeps the record from being removed until as many calls of Release.
// It counts as a use of the record.
func (t *Table) Acquire(id ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inUse[id]++
	t.used[id] = use{time.Now(), t.used[id].n + 1}
}

// Release ends one Acquire.
func (t *Table) Release(id ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inUse[id]--; t.inUse[id] <= 0 {
		delete(t.inUse, id)
	}
}

// InUse tells whether the record has been acquired and not released.
func (t *Table) InUse(id ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inUse[id] > 0
}

// Flush writes the uses that were only counted so far, as lists of records do first.
func (t *Table) Flush() error {
	t.mu.Lock()
	used := t.used
	t.used = map[ID]use{}
	t.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	return t.db.Update(func(tx *bolt.Tx) error {
		for _, id := range slices.Sorted(maps.Keys(used)) {
			if tx.Bucket(bucketRecords).Get([]byte(id)) == nil {
				continue
			}
			u := used[id]
			u.n += readUse(tx, id).n
			if err := tx.Bucket(bucketUsed).Put([]byte(id), u.bytes()); err != nil {
				return err
			}
		}
		return nil
	})
}

// use is what is to be added to a record's LastUsed and Uses. They are kept apart
// from the rest, which is large and never changes.
type use struct {
	last time.Time
	n    int
}

// bytes are, big endian, nanoseconds since 1970 and the number of uses, 8 bytes
// each.
func (u use) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(u.last.UnixNano()))
	return binary.BigEndian.AppendUint64(b, uint64(u.n))
}

func readUse(tx *bolt.Tx, id ID) (u use) {
	if b := tx.Bucket(bucketUsed).Get([]byte(id)); len(b) == 16 {
		u.last = time.Unix(0, int64(binary.BigEndian.Uint64(b)))
		u.n = int(binary.BigEndian.Uint64(b[8:]))
	}
	return u
}

func (u use) addTo(r *Record) {
	if u.n > 0 {
		r.LastUsed = u.last
		r.Uses += u.n
	}
}
