package cache

import (
	"sync"

	bolt "go.etcd.io/bbolt"
)

// group makes one transaction of the writes that come while another is being
// written: a transaction costs more than what most of them do.
type group struct {
	db *bolt.DB

	mu      sync.Mutex
	waiting []*write
	writing bool
}

// write is one change of the database.
type write struct {
	change func(*bolt.Tx) error
	err    error
	done   chan struct{}
}

// update makes a change and returns when it is made. A change that fails leaves
// nothing behind, and may then be tried a second time.
func (g *group) update(change func(*bolt.Tx) error) error {
	w := &write{change: change, done: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	first := !g.writing
	g.writing = true
	g.mu.Unlock()
	if first {
		g.write(g.take())
	}
	<-w.done
	return w.err
}

// write makes changes. Those that have come meanwhile are made by another
// goroutine: who began is done with his own.
func (g *group) write(batch []*write) {
	err := g.db.Update(func(tx *bolt.Tx) error {
		for _, w := range batch {
			if err := w.change(tx); err != nil {
				return err
			}
		}
		return nil
	})
	for _, w := range batch {
		if w.err = err; err != nil && len(batch) > 1 {
			w.err = g.db.Update(w.change) // only those fail that must
		}
		close(w.done)
	}
	if next := g.take(); len(next) > 0 {
		go g.write(next)
	}
}

func (g *group) take() []*write {
	g.mu.Lock()
	defer g.mu.Unlock()
	batch := g.waiting
	g.waiting = nil
	g.writing = len(batch) > 0
	return batch
}
