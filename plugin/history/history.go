// Package history keeps records of builds with their logs, errors and traces,
// and tells listeners when a build begins, ends or is forgotten.
//
// Its folder has one folder for each build, named by a hash of the build's ref
// since refs come from clients:
//
//	ID/record         a marshalled BuildHistoryRecord; its modification time
//	                  is when the build ended
//	ID/sha256-HEX     the blobs that the record names
//	ID.running/       a build that runs: its log so far
//
// A folder gets its final name when it is complete. There is no database and
// no fsync: a record that a crash of the machine spoiled is skipped, and with
// it nothing but that record is lost.
package history

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
)

// Config says where the records are and how long they stay.
type Config struct {
	// Root is a folder of the history's own. It is made if it does not exist.
	Root string
	// MaxEntries and MaxAge say what is kept: a record that is not pinned is
	// removed when there are MaxEntries newer ones and its build ended longer
	// than MaxAge ago. With MaxEntries 0 nothing is recorded.
	MaxEntries int
	MaxAge     time.Duration
}

// retainEvery is the time between two looks for records to remove.
const retainEvery = 2 * time.Minute

// History is a set of records. It is safe for concurrent use, by one process.
type History struct {
	cfg Config

	mu        sync.Mutex
	running   map[string]*controlapi.BuildHistoryRecord // by ref
	listening map[string]int                            // listeners by the ref they ask for
	deleted   map[string]bool                           // refs to delete when nobody listens
	listeners map[*listener]bool

	stop    chan struct{}
	stopped chan struct{}
	close   sync.Once
}

// Open opens the history and removes what builds that were interrupted left.
func Open(cfg Config) (*History, error) {
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("build history: %w", err)
	}
	entries, err := os.ReadDir(cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("build history: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(cfg.Root, e.Name())
		if _, err := readRecord(dir); err == nil && !isRunning(e) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("build history: %w", err)
		}
	}
	h := &History{
		cfg:       cfg,
		running:   map[string]*controlapi.BuildHistoryRecord{},
		listening: map[string]int{},
		deleted:   map[string]bool{},
		listeners: map[*listener]bool{},
		stop:      make(chan struct{}),
		stopped:   make(chan struct{}),
	}
	go h.retainLoop()
	return h, nil
}

// Close ends all listeners without an error. Records can still be read.
func (h *History) Close() {
	h.close.Do(func() {
		close(h.stop)
		<-h.stopped
	})
}

// Enabled says whether builds are recorded.
func (h *History) Enabled() bool { return h.cfg.MaxEntries > 0 }

const (
	runningSuffix = ".running"
	recordName    = "record"
)

func isRunning(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), runningSuffix) }

func (h *History) dir(ref string) string {
	sum := sha256.Sum256([]byte(ref))
	return filepath.Join(h.cfg.Root, hex.EncodeToString(sum[:16]))
}

// Get returns the record of a build that has ended. It fails with
// errdefs.ErrNotFound if there is none.
func (h *History) Get(ref string) (*controlapi.BuildHistoryRecord, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.get(ref)
}

func (h *History) get(ref string) (*controlapi.BuildHistoryRecord, error) {
	if !h.deleted[ref] {
		if rec, err := readRecord(h.dir(ref)); err == nil {
			return rec, nil
		}
	}
	return nil, fmt.Errorf("build history has no record of %q: %w", ref, errdefs.ErrNotFound)
}

func readRecord(dir string) (*controlapi.BuildHistoryRecord, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return nil, err
	}
	rec := &controlapi.BuildHistoryRecord{}
	if err := rec.UnmarshalVT(data); err != nil {
		return nil, err
	}
	if rec.Ref == "" || rec.CompletedAt == nil {
		return nil, fmt.Errorf("%s holds no whole record", dir)
	}
	return rec, nil
}

// writeRecord replaces the record in a folder at once.
func writeRecord(dir string, rec *controlapi.BuildHistoryRecord) error {
	data, err := rec.MarshalVT()
	if err != nil {
		return err
	}
	name := filepath.Join(dir, recordName)
	temporary := name + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	ended := rec.CompletedAt.AsTime()
	if err := os.Chtimes(temporary, ended, ended); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}

// records returns all records that can be read and are not deleted, in no
// particular order.
func (h *History) records() ([]*controlapi.BuildHistoryRecord, error) {
	entries, err := os.ReadDir(h.cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("build history: %w", err)
	}
	var all []*controlapi.BuildHistoryRecord
	for _, e := range entries {
		if isRunning(e) {
			continue
		}
		if rec, err := readRecord(filepath.Join(h.cfg.Root, e.Name())); err == nil {
			all = append(all, rec)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(all, func(rec *controlapi.BuildHistoryRecord) bool { return h.deleted[rec.Ref] }), nil
}

// Update changes the record of a build that has ended, and tells listeners. It
// fails with errdefs.ErrNotFound if there is none.
func (h *History) Update(ref string, change func(*controlapi.BuildHistoryRecord)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	rec, err := h.get(ref)
	if err != nil {
		return err
	}
	change(rec)
	rec.Generation++
	if err := writeRecord(h.dir(ref), rec); err != nil {
		return fmt.Errorf("build history: %w", err)
	}
	h.publish(controlapi.BuildHistoryEventType_COMPLETE, rec)
	return nil
}

// Delete forgets a build that has ended. While somebody listens for its ref
// that is hidden from all others only; the last listener to leave ends it. It
// fails with errdefs.ErrNotFound if there is no record.
func (h *History) Delete(ref string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := h.get(ref); err != nil {
		return err
	}
	if h.listening[ref] > 0 {
		h.deleted[ref] = true
		return nil
	}
	return h.remove(ref)
}

func (h *History) remove(ref string) error {
	delete(h.deleted, ref)
	if err := os.RemoveAll(h.dir(ref)); err != nil {
		return fmt.Errorf("build history: %w", err)
	}
	h.publish(controlapi.BuildHistoryEventType_DELETED, &controlapi.BuildHistoryRecord{Ref: ref})
	return nil
}
