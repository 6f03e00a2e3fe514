package history

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
)

// backlog is how many events may wait for a listener that is slow.
const backlog = 1024

type listener struct {
	ref    string // "" for all
	events chan *controlapi.BuildHistoryEvent
	lost   chan struct{} // closed when an event was dropped
}

func (l *listener) wants(ref string) bool { return l.ref == "" || l.ref == ref }

// publish tells all listeners. The record must not be changed afterwards. The
// caller holds h.mu.
func (h *History) publish(kind controlapi.BuildHistoryEventType, rec *controlapi.BuildHistoryRecord) {
	event := &controlapi.BuildHistoryEvent{Type: kind, Record: rec}
	for l := range h.listeners {
		if !l.wants(rec.Ref) {
			continue
		}
		select {
		case l.events <- event:
		default:
			close(l.lost)
			delete(h.listeners, l)
		}
	}
}

// Listen sends the builds that run, then the records that the request asks
// for, and then, unless it wants an early exit, what happens until ctx or the
// history ends.
func (h *History) Listen(ctx context.Context, req *controlapi.BuildHistoryRequest, send func(*controlapi.BuildHistoryEvent) error) error {
	choose, err := newSelection(req)
	if err != nil {
		return err
	}
	l, running, err := h.join(req.Ref)
	if err != nil {
		return err
	}
	defer h.leave(l)
	for _, rec := range running {
		if err := send(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_STARTED, Record: rec}); err != nil {
			return err
		}
	}
	if !req.ActiveOnly {
		recs, err := h.records()
		if err != nil {
			return err
		}
		for _, rec := range choose.from(recs) {
			if err := send(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_COMPLETE, Record: rec}); err != nil {
				return err
			}
		}
	}
	if req.EarlyExit {
		return nil
	}
	return h.forward(ctx, l, send)
}

func (h *History) forward(ctx context.Context, l *listener, send func(*controlapi.BuildHistoryEvent) error) error {
	for {
		select {
		case e := <-l.events:
			if err := send(e); err != nil {
				return err
			}
		case <-l.lost:
			return fmt.Errorf("build history: the client takes events too slowly, more than %d were waiting: %w", backlog, errdefs.ErrUnavailable)
		case <-h.stop:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// join adds a listener and returns the builds that ran at that moment, those
// that began first first.
func (h *History) join(ref string) (*listener, []*controlapi.BuildHistoryRecord, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ref != "" && h.deleted[ref] {
		return nil, nil, fmt.Errorf("ref %s is deleted: %w", ref, errdefs.ErrNotFound)
	}
	l := &listener{ref: ref, events: make(chan *controlapi.BuildHistoryEvent, backlog), lost: make(chan struct{})}
	h.listeners[l] = true
	if ref != "" {
		h.listening[ref]++
	}
	var running []*controlapi.BuildHistoryRecord
	for _, rec := range h.running {
		if l.wants(rec.Ref) {
			running = append(running, rec)
		}
	}
	slices.SortFunc(running, func(a, b *controlapi.BuildHistoryRecord) int {
		return cmp.Or(a.CreatedAt.AsTime().Compare(b.CreatedAt.AsTime()), cmp.Compare(a.Ref, b.Ref))
	})
	return l, running, nil
}

func (h *History) leave(l *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.listeners, l)
	if l.ref == "" {
		return
	}
	h.listening[l.ref]--
	if h.listening[l.ref] > 0 {
		return
	}
	delete(h.listening, l.ref)
	if h.deleted[l.ref] {
		// The folder stays if this fails; it is tried again when it expires.
		_ = h.remove(l.ref)
	}
}
