package control

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/plugin/history"
	"github.com/kiln-build/kiln/plugin/status"
	"github.com/kiln-build/kiln/plugin/trace"
)

// linger is how long the status of a build that ended can still be followed
// without history, by clients that ask late.
const linger = 10 * time.Second

// run is a build that runs, or has just ended.
type run struct {
	ref      string
	internal bool // the client asks for itself, no user for a build
	build    *history.Build
	stream   *status.Stream
	trace    *trace.Recorder // passes on to the stream

	// These belong to runs.mu.
	readers int
	over    bool // the build has ended
	gone    bool // nobody can find the run any more
	timer   *time.Timer
}

// runs are the builds by their refs.
type runs struct {
	mu      sync.Mutex
	byRef   map[string]*run
	arrived chan struct{} // closed, and replaced, when a build begins
}

func newRuns() *runs {
	return &runs{byRef: map[string]*run{}, arrived: make(chan struct{})}
}

// reserve takes a ref for a build that begins. It fails with
// errdefs.ErrAlreadyExists while another one runs.
func (r *runs) reserve(ref string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.byRef[ref]; old != nil {
		if !old.over {
			return fmt.Errorf("a build with the ref %q is running: %w", ref, errdefs.ErrAlreadyExists)
		}
		r.forget(old)
	}
	r.byRef[ref] = &run{ref: ref}
	return nil
}

// release gives back a reserved ref.
func (r *runs) release(ref string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byRef, ref)
}

// begin makes a run known under its ref, which is reserved.
func (r *runs) begin(n *run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byRef[n.ref] = n
	close(r.arrived)
	r.arrived = make(chan struct{})
}

// end says that a build has ended.
func (r *runs) end(n *run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n.over = true
	n.timer = time.AfterFunc(linger, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.forget(n)
	})
}

// forget hides a run that ended. Its log is closed when the last reader leaves.
func (r *runs) forget(n *run) {
	if n.gone {
		return
	}
	n.gone = true
	n.timer.Stop()
	if r.byRef[n.ref] == n {
		delete(r.byRef, n.ref)
	}
	if n.readers == 0 {
		n.build.Close()
	}
}

// close forgets all runs, which have ended.
func (r *runs) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.byRef {
		if n.over {
			r.forget(n)
		}
	}
}

// find returns the run with the ref for reading, to be left again, or nil and
// a channel that is closed when another build begins.
func (r *runs) find(ref string) (*run, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.byRef[ref]
	if n == nil || n.stream == nil {
		return nil, r.arrived
	}
	n.readers++
	return n, nil
}

// wait waits for a run that find finds. It returns nil if none does in time.
func (r *runs) wait(ctx context.Context, ref string, limit time.Duration) (*run, error) {
	timeout := time.After(limit)
	for {
		n, arrived := r.find(ref)
		if n != nil {
			return n, nil
		}
		select {
		case <-arrived:
		case <-timeout:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// leave ends reading.
func (r *runs) leave(n *run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n.readers--
	if n.gone && n.readers == 0 {
		n.build.Close()
	}
}
