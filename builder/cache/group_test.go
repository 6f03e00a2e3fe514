package cache

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestGroup: changes that are made at the same time are all made, but for those
// that fail, which leave nothing behind.
func TestGroup(t *testing.T) {
	db, err := openDB(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	g := group{db: db}
	wrong := errors.New("wrong")
	const n = 200
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			err := g.update(func(tx *bolt.Tx) error {
				if err := tx.Bucket(bucketKeys).Put(fmt.Append(nil, i), []byte("x")); err != nil {
					return err
				}
				if i%50 == 7 {
					return wrong
				}
				return nil
			})
			if fails := i%50 == 7; fails != errors.Is(err, wrong) || !fails && err != nil {
				t.Errorf("change %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	err = db.View(func(tx *bolt.Tx) error {
		for i := range n {
			if there := tx.Bucket(bucketKeys).Get(fmt.Append(nil, i)) != nil; there == (i%50 == 7) {
				t.Errorf("change %d was made: %t", i, there)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestGroupLetsGo: who makes others' changes with his own doesn't wait for those
// that come later.
func TestGroupLetsGo(t *testing.T) {
	db, err := openDB(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	g := group{db: db}
	waits := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.waiting) > 0
	}
	begun, returned := make(chan struct{}), make(chan struct{})
	var later sync.WaitGroup
	later.Go(func() {
		<-begun
		err := g.update(func(*bolt.Tx) error {
			select {
			case <-returned:
				return nil
			case <-time.After(10 * time.Second):
				return errors.New("the first one hasn't returned")
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	err = g.update(func(*bolt.Tx) error {
		for close(begun); !waits(); {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	close(returned)
	later.Wait()
}

func BenchmarkPut(b *testing.B) {
	table, err := Open(filepath.Join(b.TempDir(), "db"))
	if err != nil {
		b.Fatal(err)
	}
	defer table.Close()
	var n sync.Mutex
	i := 0
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n.Lock()
			i++
			id := ID(fmt.Sprintf("%064d", i))
			n.Unlock()
			if err := table.Put(Record{ID: id}, Key(id)); err != nil {
				b.Error(err)
			}
		}
	})
}
