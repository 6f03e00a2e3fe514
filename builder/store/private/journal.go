package private

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	bolt "go.etcd.io/bbolt"

	"github.com/kiln-build/kiln/builder/boltcheck"
)

// journal is a database of leases, by id, that is written behind.
type journal struct {
	db     *bolt.DB
	dirty  map[string]bool // ids of what isn't written yet; guarded by space.mu
	writer later
}

var bucketLeases = []byte("leases")

// gather is how long changes are gathered before they are written, retry how
// long a write that failed waits.
const (
	gather = 100 * time.Millisecond
	retry  = time.Second
)

// openJournal reads the leases. A database that is damaged is begun anew.
func (s *space) openJournal(path string) error {
	if err := boltcheck.File(path); errdefs.IsDataLoss(err) {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoGrowSync: true, NoFreelistSync: true, NoStatistics: true, Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	s.leases = map[string]*lease{}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketLeases)
		if err != nil {
			return err
		}
		return b.ForEach(func(id, data []byte) error {
			l := &lease{}
			s.leases[string(id)] = l
			return json.Unmarshal(data, l)
		})
	})
	if err != nil {
		return errors.Join(fmt.Errorf("read %s: %w", path, err), db.Close())
	}
	s.journal = journal{db: db, dirty: map[string]bool{}}
	s.journal.writer.start(gather, s.flushLater)
	return nil
}

// closeJournal writes what isn't written.
func (s *space) closeJournal() error {
	s.journal.writer.close()
	return errors.Join(s.flush(), s.journal.db.Close())
}

// changed has a lease written. space.mu is held.
func (j *journal) changed(id string) {
	j.dirty[id] = true
	j.writer.want()
}

func (s *space) flushLater() {
	if err := s.flush(); err != nil {
		log.L.WithError(err).Warn("the journal of private snapshots can't be written")
		time.Sleep(retry)
		s.journal.writer.want()
	}
}

func (s *space) flush() error {
	s.mu.Lock()
	dirty := s.journal.dirty
	s.journal.dirty = map[string]bool{}
	data := map[string][]byte{}
	var err error
	for id := range dirty {
		if l := s.leases[id]; l != nil && (!l.Under || len(l.Names) > 0) && err == nil {
			data[id], err = json.Marshal(l)
		}
	}
	s.mu.Unlock()
	if err == nil && len(dirty) > 0 {
		err = s.journal.db.Update(func(tx *bolt.Tx) error { return write(tx.Bucket(bucketLeases), dirty, data) })
	}
	if err != nil {
		s.mu.Lock()
		maps.Copy(s.journal.dirty, dirty)
		s.mu.Unlock()
	}
	return err
}

// write puts what there is data of, and deletes the others.
func write(b *bolt.Bucket, ids map[string]bool, data map[string][]byte) error {
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		var err error
		if data[id] == nil {
			err = b.Delete([]byte(id))
		} else {
			err = b.Put([]byte(id), data[id])
		}
		if err != nil {
			return err
		}
	}
	return nil
}
