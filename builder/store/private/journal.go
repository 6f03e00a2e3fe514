package private

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	bolt "go.etcd.io/bbolt"
)

// journal is a map that is kept in a database and written behind: what was put
// in is there at once, and on its way to the file soon.
type journal struct {
	db   *bolt.DB
	done chan struct{} // closed when the writer has ended

	mu      sync.Mutex
	changed sync.Cond         // something is pending, or closing was set
	pending map[string][]byte // nil is removed
	writing map[string][]byte // what is being written, likewise
	closing bool
}

var bucketJournal = []byte("journal")

// gather is how long changes are gathered before they are written, retry how
// long a write that failed waits.
const (
	gather = 100 * time.Millisecond
	retry  = time.Second
)

func (j *journal) open(path string) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoGrowSync: true, NoFreelistSync: true, NoStatistics: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketJournal)
		return err
	})
	if err != nil {
		db.Close()
		return err
	}
	j.db, j.done, j.pending = db, make(chan struct{}), map[string][]byte{}
	j.changed.L = &j.mu
	go j.write()
	return nil
}

// close writes what is pending.
func (j *journal) close() error {
	j.mu.Lock()
	j.closing = true
	j.changed.Signal()
	j.mu.Unlock()
	<-j.done
	return j.db.Close()
}

func (j *journal) write() {
	defer close(j.done)
	for {
		j.mu.Lock()
		for len(j.pending) == 0 && !j.closing {
			j.changed.Wait()
		}
		closing := j.closing
		j.mu.Unlock()
		if !closing {
			time.Sleep(gather)
		}
		err := j.flush()
		switch {
		case err != nil && !closing:
			log.L.WithError(err).Warn("the journal of private snapshots can't be written")
			time.Sleep(retry)
		case err != nil:
			log.L.WithError(err).Warn("the journal of private snapshots isn't whole")
			return
		case closing:
			return
		}
	}
}

func (j *journal) flush() error {
	j.mu.Lock()
	j.writing, j.pending = j.pending, map[string][]byte{}
	writing := j.writing
	j.mu.Unlock()
	err := j.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketJournal)
		for _, k := range slices.Sorted(maps.Keys(writing)) {
			var err error
			if v := writing[k]; v == nil {
				err = b.Delete([]byte(k))
			} else {
				err = b.Put([]byte(k), v)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil { // newer changes win
		maps.Copy(writing, j.pending)
		j.pending = writing
	}
	j.writing = nil
	return err
}

func (j *journal) set(key string, value []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pending[key] = value
	j.changed.Signal()
}

func (j *journal) remove(key string) { j.set(key, nil) }

// bytes returns a value, nil for none.
func (j *journal) bytes(key string) (value []byte, err error) {
	j.mu.Lock()
	for _, m := range []map[string][]byte{j.pending, j.writing} {
		if v, ok := m[key]; ok {
			j.mu.Unlock()
			return v, nil
		}
	}
	j.mu.Unlock()
	err = j.db.View(func(tx *bolt.Tx) error {
		value = slices.Clone(tx.Bucket(bucketJournal).Get([]byte(key)))
		return nil
	})
	return value, err
}

// each calls f for all that is under keys that start with the prefix, without it.
// f may change the journal, but not read it.
func (j *journal) each(prefix string, f func(name string, value []byte) error) error {
	recent := map[string][]byte{}
	j.mu.Lock()
	for _, m := range []map[string][]byte{j.writing, j.pending} {
		for k, v := range m {
			if strings.HasPrefix(k, prefix) {
				recent[k] = v
			}
		}
	}
	j.mu.Unlock()
	err := j.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketJournal).Cursor()
		for k, v := c.Seek([]byte(prefix)); strings.HasPrefix(string(k), prefix); k, v = c.Next() {
			if _, changed := recent[string(k)]; changed {
				continue
			}
			if err := f(string(k[len(prefix):]), v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for k, v := range recent {
		if v == nil {
			continue
		}
		if err := f(k[len(prefix):], v); err != nil {
			return err
		}
	}
	return nil
}

// put puts a value into the journal as JSON.
func put(j *journal, key string, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // they are our own types
	}
	j.set(key, data)
}

// get reads what put has written.
func get[T any](j *journal, key string) (value T, ok bool, err error) {
	data, err := j.bytes(key)
	if data == nil || err != nil {
		return value, false, err
	}
	if err := json.Unmarshal(data, &value); err != nil {
		return value, false, fmt.Errorf("journal of private snapshots: %s: %w", key, err)
	}
	return value, true, nil
}

// scan calls f for all that is under keys that start with the prefix, as each does.
func scan[T any](j *journal, prefix string, f func(name string, value T) error) error {
	return j.each(prefix, func(name string, data []byte) error {
		var value T
		if err := json.Unmarshal(data, &value); err != nil {
			return fmt.Errorf("journal of private snapshots: %s%s: %w", prefix, name, err)
		}
		return f(name, value)
	})
}
