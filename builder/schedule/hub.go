package schedule

import (
	"sync"

	"github.com/kiln-build/kiln/builder/event"
	digest "github.com/opencontainers/go-digest"
)

// hub passes what a run reports on to all builds that wait for it, each under
// the digest by which that build knows the step. A build that comes late gets
// what was reported before.
type hub struct {
	mu      sync.Mutex
	members map[*Build]*member
	past    []event.Event
	size    int
}

type member struct {
	vertex digest.Digest
	count  int // plans of the build that wait
}

// pastLimit bounds the log output that is kept for those who come late, bytes.
const pastLimit = 256 << 10

func newHub() *hub { return &hub{members: map[*Build]*member{}} }

func (h *hub) join(b *Build, vertex digest.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.members[b]; m != nil {
		m.count++
		return
	}
	h.members[b] = &member{vertex, 1}
	for _, e := range h.past {
		b.cfg.Sink.Emit(as(e, vertex))
	}
}

func (h *hub) leave(b *Build) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.members[b]; m != nil {
		if m.count--; m.count == 0 {
			delete(h.members, b)
		}
	}
}

// Emit implements event.Sink.
func (h *hub) Emit(e event.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keep(e)
	for b, m := range h.members {
		b.cfg.Sink.Emit(as(e, m.vertex))
	}
}

func (h *hub) keep(e event.Event) {
	if l, ok := e.(*event.Log); ok {
		if h.size += len(l.Data); h.size > pastLimit {
			return
		}
	}
	h.past = append(h.past, e)
}

// sessions are those of all builds that wait.
func (h *hub) sessions() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ids []string
	for b := range h.members {
		ids = append(ids, b.cfg.Sessions()...)
	}
	return ids
}

// as gives the event for another vertex.
func as(e event.Event, vertex digest.Digest) event.Event {
	switch e := e.(type) {
	case *event.Status:
		c := *e
		c.Vertex = vertex
		return &c
	case *event.Log:
		c := *e
		c.Vertex = vertex
		return &c
	case *event.Warning:
		c := *e
		c.Vertex = vertex
		return &c
	case *event.Usage:
		c := *e
		c.Vertex = vertex
		return &c
	case *event.Fetches:
		c := *e
		c.Vertex = vertex
		return &c
	}
	return e
}
