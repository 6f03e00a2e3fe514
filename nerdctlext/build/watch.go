package build

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
)

// clockHeader holds the daemon's time when it began to answer.
const clockHeader = "buildkit-current-timestamp"

// watcher passes progress on, from the daemon and from this side, one at a time.
type watcher struct {
	mu       sync.Mutex
	observe  func(*client.SolveStatus)
	activity chan struct{}
	begun    atomic.Bool // the daemon has told something
}

func newWatcher(observe func(*client.SolveStatus)) *watcher {
	if observe == nil {
		observe = func(*client.SolveStatus) {}
	}
	return &watcher{observe: observe, activity: make(chan struct{}, 1)}
}

func (w *watcher) tell(status *client.SolveStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.observe(status)
}

// follow passes the build's progress on until the daemon ends it or ctx is done.
func (w *watcher) follow(ctx context.Context, control controlapi.ControlClient, ref string) error {
	return Follow(ctx, control, ref, func(status *client.SolveStatus) {
		w.begun.Store(true)
		select {
		case w.activity <- struct{}{}:
		default:
		}
		w.tell(status)
	})
}

// settle waits for the end of following, or for the limit to pass without a message.
func (w *watcher) settle(followed <-chan error, limit time.Duration) error {
	for {
		select {
		case err := <-followed:
			return err
		case <-w.activity:
		case <-time.After(limit):
			return nil
		}
	}
}

// Follow passes on the progress of the build ref, running or finished, until its end.
// Times are moved by the difference between the daemon's clock and this one's.
func Follow(ctx context.Context, control controlapi.ControlClient, ref string, observe func(*client.SolveStatus)) error {
	stream, err := control.Status(ctx, &controlapi.StatusRequest{Ref: ref})
	if err != nil {
		return err
	}
	skew := clockSkew(stream)
	for {
		message, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil //nolint:nilerr // nobody follows any more, or all is told
			}
			return err
		}
		observe(statusOf(message, skew))
	}
}

// clockSkew returns what to add to the daemon's times. It waits for the header, which
// comes before the daemon looks for the build.
func clockSkew(stream controlapi.Control_StatusClient) time.Duration {
	headers, err := stream.Header()
	if err != nil {
		return 0
	}
	for _, value := range headers.Get(clockHeader) {
		if at, err := time.Parse(time.RFC3339Nano, value); err == nil {
			return time.Since(at)
		}
	}
	return 0
}
