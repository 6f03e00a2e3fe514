package image

import (
	"context"
	"sync"

	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memo remembers what references mean for as long as a session lives: within
// one build a tag has one meaning, and one session doesn't learn from another
// one what only that one may know.
type memo struct {
	sessions *session.Manager

	mu    sync.Mutex
	known map[string]map[string]*meaning // by session and reference
}

type meaning struct {
	done chan struct{} // closed when desc and err are there
	desc ocispec.Descriptor
	err  error
}

// do resolves once per session. Who waits for another one's attempt tries
// again if that failed.
func (m *memo) do(ctx context.Context, job schedule.Job, req request, resolve func(context.Context) (ocispec.Descriptor, error)) (ocispec.Descriptor, error) {
	id, ok := m.alive(ctx, job)
	if !ok || req.layout != nil {
		return resolve(ctx)
	}
	for {
		v, mine := m.claim(id, req.String())
		if mine {
			v.desc, v.err = resolve(ctx)
			if v.err != nil {
				m.drop(id, req.String())
			}
			close(v.done)
			return v.desc, v.err
		}
		select {
		case <-v.done:
			if v.err == nil {
				return v.desc, nil
			}
		case <-ctx.Done():
			return ocispec.Descriptor{}, context.Cause(ctx)
		}
	}
}

// alive gives the first session of the job, and makes the memo forget it when
// it ends.
func (m *memo) alive(ctx context.Context, job schedule.Job) (string, bool) {
	if job.Sessions == nil {
		return "", false
	}
	ids := job.Sessions()
	if len(ids) == 0 {
		return "", false
	}
	c, err := m.sessions.Get(ctx, ids[0])
	if err != nil {
		return "", false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = map[string]map[string]*meaning{}
	}
	if m.known[c.ID()] == nil {
		m.known[c.ID()] = map[string]*meaning{}
		c.OnDone(func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.known, c.ID())
		})
	}
	return c.ID(), true
}

func (m *memo) claim(id, ref string) (v *meaning, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.known[id][ref]; ok {
		return v, false
	}
	v = &meaning{done: make(chan struct{})}
	if m.known[id] != nil { // the session may have ended just now
		m.known[id][ref] = v
	}
	return v, true
}

func (m *memo) drop(id, ref string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known[id], ref)
}
