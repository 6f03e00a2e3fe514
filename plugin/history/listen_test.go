package history

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
)

// listen follows the history in the background. stop ends it and returns what
// Listen returned.
func listen(t *testing.T, h *History, req *controlapi.BuildHistoryRequest) (events chan string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events = make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		done <- h.Listen(ctx, req, func(e *controlapi.BuildHistoryEvent) error {
			events <- e.Type.String() + " " + e.Record.Ref
			return nil
		})
	}()
	stop = func() error {
		cancel()
		return <-done
	}
	return events, stop
}

func expect(t *testing.T, events chan string, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-events:
			if got != w {
				t.Errorf("event %q, want %q", got, w)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no event %q", w)
		}
	}
	select {
	case got := <-events:
		t.Errorf("event %q, want none", got)
	case <-time.After(20 * time.Millisecond):
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	h := open(t, Config{MaxEntries: 10})
	add(t, h, "old", 0)
	running := begin(t, h, "running")
	all, stopAll := listen(t, h, &controlapi.BuildHistoryRequest{})
	active, stopActive := listen(t, h, &controlapi.BuildHistoryRequest{ActiveOnly: true})
	one, stopOne := listen(t, h, &controlapi.BuildHistoryRequest{Ref: "new"})
	expect(t, all, "STARTED running", "COMPLETE old")
	expect(t, active, "STARTED running")
	expect(t, one)

	add(t, h, "new", 0)
	running.Discard()
	if err := h.Delete("old"); err != nil {
		t.Fatal(err)
	}
	expect(t, all, "STARTED new", "COMPLETE new", "DELETED old")
	expect(t, one, "STARTED new", "COMPLETE new")
	if got := refs(t, h, &controlapi.BuildHistoryRequest{ActiveOnly: true}); len(got) != 0 {
		t.Errorf("still running: %v", got)
	}
	for _, stop := range []func() error{stopAll, stopActive, stopOne} {
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Listen: %v", err)
		}
	}
	if len(h.listeners) != 0 || len(h.listening) != 0 {
		t.Errorf("listeners left: %v, %v", h.listeners, h.listening)
	}
}

func TestDeletionWaitsForListeners(t *testing.T) {
	t.Parallel()
	h := open(t, Config{MaxEntries: 10})
	add(t, h, "a", 0)
	add(t, h, "b", 0)
	all, stopAll := listen(t, h, &controlapi.BuildHistoryRequest{})
	expect(t, all, "COMPLETE a", "COMPLETE b")
	one, stop := listen(t, h, &controlapi.BuildHistoryRequest{Ref: "a"})
	expect(t, one, "COMPLETE a")
	if err := h.Delete("a"); err != nil {
		t.Fatal(err)
	}
	expect(t, all)
	if got := refs(t, h, &controlapi.BuildHistoryRequest{Limit: 10}); !slices.Equal(got, []string{"b"}) {
		t.Errorf("records %v", got)
	}
	err := h.Listen(context.Background(), &controlapi.BuildHistoryRequest{Ref: "a", EarlyExit: true}, nil)
	if !errdefs.IsNotFound(err) {
		t.Errorf("listening for a deleted ref: %v", err)
	}
	if len(files(t, h.cfg.Root)) != 2 {
		t.Error("the record is gone although somebody listens for it")
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	expect(t, all, "DELETED a")
	if len(files(t, h.cfg.Root)) != 1 {
		t.Error("the record is still there")
	}
	if err := stopAll(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCloseEndsListeners(t *testing.T) {
	t.Parallel()
	h := open(t, Config{MaxEntries: 10})
	add(t, h, "a", 0)
	events, stop := listen(t, h, &controlapi.BuildHistoryRequest{})
	expect(t, events, "COMPLETE a")
	h.Close()
	h.Close()
	if err := stop(); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Listen: %v", err)
	}
}

func TestASlowListenerIsLeftBehind(t *testing.T) {
	t.Parallel()
	h := open(t, Config{MaxEntries: 10})
	add(t, h, "a", 0)
	block, done := make(chan struct{}), make(chan error)
	sent := make(chan struct{}, backlog+10)
	go func() {
		done <- h.Listen(context.Background(), &controlapi.BuildHistoryRequest{}, func(*controlapi.BuildHistoryEvent) error {
			sent <- struct{}{}
			<-block
			return nil
		})
	}()
	<-sent // it has joined
	h.mu.Lock()
	for range backlog + 1 {
		h.publish(controlapi.BuildHistoryEventType_COMPLETE, &record{Ref: "b"})
	}
	h.mu.Unlock()
	close(block)
	if err := <-done; !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Listen: %v", err)
	}
}
