// Package session reaches what a client offers to its builds: directories,
// secrets, agents, registry credentials, content stores and places to write
// results to.
//
// A client opens one connection, on which it is the gRPC server and the engine
// the caller. [Manager] knows the connections by the id that the client chose;
// [Client] is one of them, with a method for each service. Several sessions may
// belong to one build, and one step may work for several builds, so most users
// go through [Manager.Any].
package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// arrivalTimeout is how long a build waits for a session that it names: the
// request to build often overtakes the connection.
const arrivalTimeout = 5 * time.Second

// Manager holds the sessions that are open. It is safe for concurrent use.
type Manager struct {
	mu      sync.Mutex
	clients map[string]*Client
	arrived chan struct{} // closed, and replaced, when a client arrives
}

// NewManager returns a manager without sessions.
func NewManager() *Manager {
	return &Manager{clients: map[string]*Client{}, arrived: make(chan struct{})}
}

// Serve makes the client behind conn available under the id in its headers. It
// returns when ctx ends, the connection breaks or the client stops answering,
// with the reason unless that is an orderly end. Serve closes conn. A session
// that arrives under a taken id replaces the earlier one, which stays usable
// for those who hold it.
func (m *Manager) Serve(ctx context.Context, conn net.Conn, headers map[string][]string) error {
	h := canonical(headers)
	c, err := newClient(ctx, conn, h)
	if err != nil {
		conn.Close()
		return err
	}
	defer c.close(context.Canceled)
	m.add(c)
	defer m.remove(c)
	watchHealth(c, healthFromHeaders(h))
	if err := context.Cause(c.ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, errHungUp) {
		return fmt.Errorf("session %s: %w", c.id, err)
	}
	return nil
}

// Get waits for a session for as long as one usually takes to arrive. An id may
// have a prefix that ends in a colon. It fails with errdefs.ErrNotFound.
func (m *Manager) Get(ctx context.Context, id string) (*Client, error) {
	id = trimPrefix(id)
	ctx, cancel := context.WithTimeout(ctx, arrivalTimeout)
	defer cancel()
	for {
		c, arrived := m.lookup(id)
		if c != nil {
			return c, nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, fmt.Errorf("no active session for %s: %w: %w", id, ctx.Err(), errdefs.ErrNotFound)
		}
	}
}

// Find gives a session that is open now.
func (m *Manager) Find(id string) (*Client, bool) {
	c, _ := m.lookup(trimPrefix(id))
	return c, c != nil
}

// Any calls use with one session after the other until use returns nil, those
// that are open first. It fails with what the first session that was asked
// said, or with errdefs.ErrNotFound if there was none to ask.
func (m *Manager) Any(ctx context.Context, ids []string, use func(*Client) error) error {
	if len(ids) == 0 {
		return fmt.Errorf("no active sessions: %w", errdefs.ErrNotFound)
	}
	var firstErr error
	var missing []string
	for _, id := range ids {
		c, _ := m.lookup(trimPrefix(id))
		if c == nil {
			missing = append(missing, id)
			continue
		}
		if done, err := try(ctx, c, use, &firstErr); done {
			return err
		}
	}
	for _, id := range missing {
		c, err := m.Get(ctx, id)
		if err != nil {
			firstErr = cmpErr(firstErr, err)
			break // the others had the same time to arrive
		}
		if done, err := try(ctx, c, use, &firstErr); done {
			return err
		}
	}
	return firstErr
}

func try(ctx context.Context, c *Client, use func(*Client) error, firstErr *error) (done bool, err error) {
	if err := use(c); err != nil {
		*firstErr = cmpErr(*firstErr, err)
		return ctx.Err() != nil, err
	}
	return true, nil
}

func cmpErr(first, next error) error {
	if first != nil {
		return first
	}
	return next
}

// IDs gives the ids of the open sessions, sorted.
func (m *Manager) IDs() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]string, 0, len(m.clients))
	for id := range m.clients {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (m *Manager) lookup(id string) (*Client, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.clients[id]
	if c != nil && c.ctx.Err() != nil {
		c = nil
	}
	return c, m.arrived
}

func (m *Manager) add(c *Client) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clients[c.id] = c
	close(m.arrived)
	m.arrived = make(chan struct{})
}

func (m *Manager) remove(c *Client) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.clients[c.id] == c {
		delete(m.clients, c.id)
	}
}

// trimPrefix removes what tells apart the uses of one session.
func trimPrefix(id string) string {
	if _, after, ok := strings.Cut(id, ":"); ok && after != "" {
		return after
	}
	return id
}

func canonical(in map[string][]string) http.Header {
	out := http.Header{}
	for k, v := range in {
		k = http.CanonicalHeaderKey(k)
		out[k] = append(out[k], v...)
	}
	return out
}
