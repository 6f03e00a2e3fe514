package schedule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
	digest "github.com/opencontainers/go-digest"
)

// world is what all builds of a test share: the records, the sessions, and a
// watch on how they are used. It implements Records.
type world struct {
	mu       sync.Mutex
	keys     map[cache.Key]cache.ID
	records  map[cache.ID][]Result
	inUse    map[cache.ID]int
	begun    map[cache.ID]bool
	history  []cache.ID // what was begun, in order
	loaded   []cache.ID // what was taken from the records, in order
	runs     map[string]map[digest.Digest]int
	sessions map[string]chan struct{}
	breaks   func() bool        // whether the next operation fails; may be nil
	pinning  map[string]int     // by build
	inner    int                // builds inside of runs, so far
	waiters  func(cache.ID) int // for a run; may be nil
	errs     []error
}

func newWorld() *world {
	return &world{
		keys: map[cache.Key]cache.ID{}, records: map[cache.ID][]Result{},
		inUse: map[cache.ID]int{}, begun: map[cache.ID]bool{},
		runs: map[string]map[digest.Digest]int{}, sessions: map[string]chan struct{}{},
		pinning: map[string]int{},
	}
}

// bad notes a broken rule. It needs w.mu.
func (w *world) bad(format string, args ...any) { w.errs = append(w.errs, fmt.Errorf(format, args...)) }

func (w *world) complain(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad(format, args...)
}

// broken fails now and then, where the world is such. It needs w.mu.
func (w *world) broken() error {
	if w.breaks != nil && w.breaks() {
		return errBroken
	}
	return nil
}

func (w *world) Lookup(k cache.Key) (cache.ID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.broken(); err != nil {
		return "", err
	}
	id := w.keys[k]
	if id != "" {
		w.inUse[id]++
	}
	return id, nil
}

func (w *world) Bind(id cache.ID, keys ...cache.Key) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.broken(); err != nil {
		return err
	}
	if w.inUse[id] == 0 {
		w.bad("record %s is not in use when it is bound", id)
	}
	for _, k := range keys {
		w.keys[k] = id
	}
	return nil
}

func (w *world) Acquire(id cache.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inUse[id]++
}

func (w *world) Release(id cache.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inUse[id]--; w.inUse[id] < 0 {
		w.bad("record %s was released too often", id)
	}
}

func (w *world) Load(_ context.Context, id cache.ID) ([]Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.broken(); err != nil {
		return nil, err
	}
	if w.inUse[id] == 0 {
		w.bad("record %s is not in use when it is loaded", id)
	}
	if r, ok := w.records[id]; ok {
		w.loaded = append(w.loaded, id)
		return r, nil
	}
	return nil, errdefs.ErrNotFound
}

func (w *world) Begin(ctx context.Context, id cache.ID) (context.Context, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.broken(); err != nil {
		return nil, err
	}
	if w.begun[id] {
		w.bad("identity %s runs twice at the same time", id)
	}
	if _, ok := w.records[id]; ok {
		w.bad("identity %s runs although its record is there", id)
	}
	w.begun[id] = true
	w.history = append(w.history, id)
	return ctx, nil
}

func (w *world) Commit(_ context.Context, rec cache.Record, results []Result, keys ...cache.Key) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.broken(); err != nil {
		return err
	}
	if !w.begun[rec.ID] {
		w.bad("commit of %s without begin", rec.ID)
	}
	for _, id := range append(rec.Parents, rec.ID) {
		if w.inUse[id] == 0 {
			w.bad("record %s is not in use when %s is committed", id, rec.ID)
		}
	}
	delete(w.begun, rec.ID)
	w.records[rec.ID] = results
	for _, k := range keys {
		w.keys[k] = rec.ID
	}
	return nil
}

func (w *world) Abort(id cache.ID, err error) {
	if errors.Is(err, context.Canceled) && w.waiters != nil && w.waiters(id) > 0 {
		w.complain("the run of %s was cancelled, and is waited for", id)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.begun[id] {
		w.bad("abort of %s without begin", id)
	}
	if err == nil {
		w.bad("abort of %s without an error", id)
	}
	delete(w.begun, id)
}

// forget removes some records that nobody uses, as a collection does. Partially
// means that keys may stay, of a record whose content has vanished.
func (w *world) forget(r *rand.Rand, partially bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.records {
		if w.inUse[id] == 0 && r.IntN(3) == 0 {
			delete(w.records, id)
			if partially && r.IntN(2) == 0 {
				continue
			}
			maps.DeleteFunc(w.keys, func(_ cache.Key, v cache.ID) bool { return v == id })
		}
	}
}

// forgetting forgets again and again until stop.
func (w *world) forgetting(r *rand.Rand, partially bool, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(1+r.IntN(20)) * 10 * time.Microsecond):
			w.forget(r, partially)
		}
	}
}

// pins counts the keys that are being made for a build.
func (w *world) pins(build string, n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pinning[build] += n
	return w.pinning[build]
}

// unique names a build inside of a run.
func (w *world) unique(build string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inner++
	return fmt.Sprint(build, "/", w.inner)
}

// past gives what was begun, and what was loaded, since the last call.
func (w *world) past() (begun, loaded []cache.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	begun, loaded = w.history, w.loaded
	w.history, w.loaded = nil, nil
	return begun, loaded
}

// underway tells how many runs are under way.
func (w *world) underway() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.begun)
}

// ran notes that the op of a build's step has been run.
func (w *world) ran(build string, s *graph.Step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.runs[build] == nil {
		w.runs[build] = map[digest.Digest]int{}
	}
	w.runs[build][s.Digest]++
}

// session is closed when the build's client goes away.
func (w *world) session(id string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sessions[id] == nil {
		w.sessions[id] = make(chan struct{})
	}
	return w.sessions[id]
}

// end tells what is left when all is over.
func (w *world) end() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, n := range w.inUse {
		if n != 0 {
			w.bad("record %s is still in use by %d", id, n)
		}
	}
	if len(w.begun) > 0 {
		w.bad("%d runs were neither committed nor aborted", len(w.begun))
	}
	return w.errs
}
