package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

// session is a run that others can join with Exec.
type session struct {
	run     *run
	started chan struct{}   // closed when the process runs; run is set before
	alive   context.Context // done when the process, or the attempt to start it, has ended
	end     context.CancelCauseFunc
	execs   sync.WaitGroup // added to under Local.mu, while alive
}

// errEnded is the cause of a session's end.
var errEnded = errors.New("its sandbox has ended")

// enter registers a run under its id.
func (l *Local) enter(id string) (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running[id] != nil {
		return nil, fmt.Errorf("id %s is running: %w", id, errdefs.ErrAlreadyExists)
	}
	s := &session{started: make(chan struct{})}
	s.alive, s.end = context.WithCancelCause(context.Background())
	l.running[id] = s
	return s, nil
}

// end lets nobody join any more and waits for those who have. The bundle is theirs too.
func (l *Local) end(s *session) {
	l.mu.Lock()
	s.end(errEnded)
	l.mu.Unlock()
	s.execs.Wait()
}

// leave frees the id.
func (l *Local) leave(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.running, id)
}

// join waits until the process of that id runs. The caller calls execs.Done.
func (l *Local) join(ctx context.Context, id string) (*session, error) {
	l.mu.Lock()
	s := l.running[id]
	l.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("nothing runs as %q: %w", id, errdefs.ErrNotFound)
	}
	select {
	case <-s.started:
	case <-s.alive.Done():
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.alive.Err() != nil {
		return nil, fmt.Errorf("%s has ended: %w", id, errdefs.ErrNotFound)
	}
	s.execs.Add(1)
	return s, nil
}
