package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/containerd/log"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// syncing writes what aliases show to the disk, in the background. The files of
// the engine's layers aren't synced when they get a name that containerd
// believes in. Until they are, the name says so on disk, and is dropped where a
// crash of the machine came in between: an image whose layer is missing can be
// had again, one whose layer is wrong is noticed by nobody.
type syncing struct {
	sync func() error // of the filesystem

	mu     sync.Mutex
	names  []string      // that wait
	busy   chan struct{} // closed when none is left; nil while nothing is done
	closed bool
}

// syncLater syncs what the alias with the name shows.
func (s *Snapshotter) syncLater(ctx context.Context, name string) {
	y := &s.syncing
	y.mu.Lock()
	defer y.mu.Unlock()
	y.names = append(y.names, name)
	if y.busy == nil && !y.closed {
		y.busy = make(chan struct{})
		go s.syncAll(context.WithoutCancel(ctx), y.busy)
	}
}

func (s *Snapshotter) syncAll(ctx context.Context, done chan struct{}) {
	defer close(done)
	y := &s.syncing
	for {
		y.mu.Lock()
		names := y.names
		if y.names = nil; len(names) == 0 {
			y.busy = nil
			y.mu.Unlock()
			return
		}
		y.mu.Unlock()
		err := y.sync()
		if err == nil {
			err = s.markSynced(names)
		}
		if err != nil {
			log.G(ctx).WithError(err).Warn("write new layers of images to the disk; they are dropped if the machine crashes")
		}
	}
}

// close waits for what is under way.
func (y *syncing) close() {
	y.mu.Lock()
	y.closed = true
	busy := y.busy
	y.mu.Unlock()
	if busy != nil {
		<-busy
	}
}

// markSynced forgets that names have to be dropped after a crash.
func (s *Snapshotter) markSynced(names []string) error {
	s.write.Lock()
	defer s.write.Unlock()
	var synced []*entry
	s.mu.Lock()
	for _, name := range names {
		if e := s.entries[name]; e != nil && e.unsynced {
			e.unsynced = false
			synced = append(synced, e)
		}
	}
	s.mu.Unlock()
	if len(synced) == 0 {
		return nil
	}
	return s.update(func(tx *bolt.Tx) error {
		for _, e := range synced {
			if err := s.putEntry(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropUnsynced removes, after a crash of the machine, the names of which it
// isn't known that their files are on disk, and those that stand on them. Names
// that an orderly end or a killed process left are right. d.mu is held.
func (s *Snapshotter) dropUnsynced(ctx context.Context, crashed bool) error {
	var gone []*entry
	var left []string
	for _, e := range s.entries {
		if e.unsynced {
			left = append(left, e.name)
			gone = append(gone, e)
		}
	}
	if !crashed {
		for _, name := range left {
			s.syncLater(ctx, name)
		}
		return nil
	}
	for i := 0; i < len(gone); i++ {
		for _, e := range s.entries {
			if e.parent == gone[i].name && !slices.Contains(gone, e) {
				gone = append(gone, e)
			}
		}
	}
	return s.space.lose(ctx, gone, "may not have been on disk when the machine went down")
}

// syncFilesystem writes out what the filesystem of dir has in memory.
func syncFilesystem(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("snapshotter: %w", err)
	}
	err = os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("snapshotter: sync %s: %w", dir, err)
	}
	return nil
}
