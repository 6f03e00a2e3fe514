package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/boltcheck"
	bolt "go.etcd.io/bbolt"
)

// The database has these buckets:
//
//	records: ID  -> Record as JSON
//	keys:    Key -> ID
//	bound:   ID + "/" + Key -> nothing, to find the keys of a record
//	used:    ID -> how the record was of use since it was made, see use
var (
	bucketRecords = []byte("records")
	bucketKeys    = []byte("keys")
	bucketBound   = []byte("bound")
	bucketUsed    = []byte("used")
)

// Table is the table of keys and records, in a database of its own. It is safe
// for concurrent use. Writes aren't synced to disk: a crash of the process
// leaves the table whole, after one of the machine it is dropped.
type Table struct {
	db     *bolt.DB
	writes group
	mark   mark

	mu    sync.Mutex
	inUse map[ID]int
	used  map[ID]use
}

// Open opens the table in a file, which it makes where there is none. A file
// that is damaged, or may be after a crash of the machine, is replaced by an
// empty table.
func Open(path string) (*Table, error) {
	m := mark(path + ".open")
	if err := m.set(path); err != nil {
		return nil, fmt.Errorf("cache table %s: %w", path, err)
	}
	if err := boltcheck.File(path); errdefs.IsDataLoss(err) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	db, err := openDB(path)
	if err != nil {
		return nil, fmt.Errorf("cache table %s: %w", path, err)
	}
	return &Table{db: db, writes: group{db: db}, mark: m, inUse: map[ID]int{}, used: map[ID]use{}}, nil
}

func openDB(path string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true, Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketRecords, bucketKeys, bucketBound, bucketUsed} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// Close writes what is pending and closes the database.
func (t *Table) Close() error {
	err := t.Flush()
	if err := errors.Join(err, t.db.Sync(), t.db.Close()); err != nil {
		return err
	}
	return t.mark.clear()
}

// Lookup returns the record that the key leads to, "" where there is none, and
// acquires it. A record that is being removed at the same time may be returned
// and not be there any more.
func (t *Table) Lookup(key Key) (ID, error) {
	var id ID
	err := t.db.View(func(tx *bolt.Tx) error {
		id = ID(tx.Bucket(bucketKeys).Get([]byte(key)))
		if id != "" {
			t.Acquire(id)
		}
		return nil
	})
	return id, err
}

// Bind makes keys lead to a record, in place of what they led to.
func (t *Table) Bind(id ID, keys ...Key) error {
	return t.writes.update(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketRecords).Get([]byte(id)) == nil {
			return fmt.Errorf("record %s: %w", id, errdefs.ErrNotFound)
		}
		return bind(tx, id, keys)
	})
}

func bind(tx *bolt.Tx, id ID, keys []Key) error {
	for _, k := range keys {
		b := tx.Bucket(bucketKeys)
		if old := b.Get([]byte(k)); old != nil {
			if string(old) == string(id) {
				continue
			}
			if err := tx.Bucket(bucketBound).Delete([]byte(string(old) + "/" + string(k))); err != nil {
				return err
			}
		}
		if err := b.Put([]byte(k), []byte(id)); err != nil {
			return err
		}
		if err := tx.Bucket(bucketBound).Put([]byte(string(id)+"/"+string(k)), nil); err != nil {
			return err
		}
	}
	return nil
}

// Put keeps a record, in place of one with the same ID, and makes the keys lead
// to it.
func (t *Table) Put(r Record, keys ...Key) error {
	dt, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return t.writes.update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(bucketRecords).Put([]byte(r.ID), dt); err != nil {
			return err
		}
		if err := tx.Bucket(bucketUsed).Delete([]byte(r.ID)); err != nil {
			return err
		}
		return bind(tx, r.ID, keys)
	})
}

// Get returns a record, or errdefs.ErrNotFound.
func (t *Table) Get(id ID) (Record, error) {
	var r Record
	err := t.db.View(func(tx *bolt.Tx) error {
		dt := tx.Bucket(bucketRecords).Get([]byte(id))
		if dt == nil {
			return fmt.Errorf("record %s: %w", id, errdefs.ErrNotFound)
		}
		if err := json.Unmarshal(dt, &r); err != nil {
			return err
		}
		readUse(tx, id).addTo(&r)
		return nil
	})
	return r, err
}

// Remove forgets a record and its keys, unless it is in use; then it fails with
// errdefs.ErrFailedPrecondition.
func (t *Table) Remove(id ID) error {
	return t.db.Update(func(tx *bolt.Tx) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.inUse[id] > 0 {
			return fmt.Errorf("record %s is in use: %w", id, errdefs.ErrFailedPrecondition)
		}
		delete(t.used, id)
		return remove(tx, id)
	})
}

func remove(tx *bolt.Tx, id ID) error {
	prefix := string(id) + "/"
	c := tx.Bucket(bucketBound).Cursor()
	for k, _ := c.Seek([]byte(prefix)); k != nil && len(k) > len(prefix) && string(k[:len(prefix)]) == prefix; k, _ = c.Seek([]byte(prefix)) {
		if err := tx.Bucket(bucketKeys).Delete(k[len(prefix):]); err != nil {
			return err
		}
		if err := c.Delete(); err != nil {
			return err
		}
	}
	if err := tx.Bucket(bucketUsed).Delete([]byte(id)); err != nil {
		return err
	}
	return tx.Bucket(bucketRecords).Delete([]byte(id))
}

// Before returns the records that were made before then, in the order of their IDs.
func (t *Table) Before(then time.Time) ([]Record, error) {
	var all []Record
	err := t.each(func(dt []byte, u use) error {
		var r struct {
			Created time.Time `json:"created"`
		}
		if err := json.Unmarshal(dt, &r); err != nil || !r.Created.Before(then) {
			return err
		}
		all = append(all, Record{})
		last := &all[len(all)-1]
		err := json.Unmarshal(dt, last)
		u.addTo(last)
		return err
	})
	return all, err
}

// Brief returns all records, in the order of their IDs, but without what their keys
// were made of, which is most of them.
func (t *Table) Brief() ([]Record, error) {
	var all []Record
	err := t.each(func(dt []byte, u use) error {
		var r struct {
			Record
			Parts  skipped `json:"parts"`
			Inputs skipped `json:"inputs"`
		}
		err := json.Unmarshal(dt, &r)
		u.addTo(&r.Record)
		all = append(all, r.Record)
		return err
	})
	return all, err
}

// skipped is a value in JSON that isn't wanted.
type skipped struct{}

func (*skipped) UnmarshalJSON([]byte) error { return nil }

// each calls f for every record, as JSON and how it was of use.
func (t *Table) each(f func(dt []byte, u use) error) error {
	if err := t.Flush(); err != nil {
		return err
	}
	return t.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketRecords).ForEach(func(id, dt []byte) error {
			if err := f(dt, readUse(tx, ID(id))); err != nil {
				return fmt.Errorf("record %s: %w", id, err)
			}
			return nil
		})
	})
}
