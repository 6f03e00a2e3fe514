package cache

import (
	"encoding/json"
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

// flush writes the uses that were only counted so far.
func (t *Table) flush() error {
	t.mu.Lock()
	used := t.used
	t.used = map[ID]use{}
	t.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	return t.db.Update(func(tx *bolt.Tx) error {
		for id, u := range used {
			dt := tx.Bucket(bucketRecords).Get([]byte(id))
			if dt == nil {
				continue
			}
			var r Record
			if err := json.Unmarshal(dt, &r); err != nil {
				return err
			}
			r.LastUsed = u.last
			r.Uses += u.n
			if err := put(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
}
