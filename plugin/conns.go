package plugin

import (
	"net"
	"sync"
	"sync/atomic"
)

// conns are open connections. A gRPC server that is stopped does not end those
// on which nobody has said anything yet, but waits for them.
type conns struct {
	mu     sync.Mutex
	open   map[*conn]bool
	closed bool
}

// track gives a listener whose connections end with close.
func (c *conns) track(l net.Listener) net.Listener { return trackedListener{l, c} }

// closeSilent ends the connections on which nothing was ever received.
func (c *conns) closeSilent() {
	c.closeIf(func(n *conn) bool { return !n.heard.Load() })
}

// close ends all connections, and those that come.
func (c *conns) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.closeIf(func(*conn) bool { return true })
}

func (c *conns) closeIf(match func(*conn) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.open {
		if match(n) {
			n.Conn.Close()
			delete(c.open, n)
		}
	}
}

func (c *conns) add(n *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		n.Conn.Close()
		return
	}
	if c.open == nil {
		c.open = map[*conn]bool{}
	}
	c.open[n] = true
}

func (c *conns) remove(n *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, n)
}

type trackedListener struct {
	net.Listener
	conns *conns
}

func (l trackedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := &conn{Conn: c, conns: l.conns}
	l.conns.add(n)
	return n, nil
}

type conn struct {
	net.Conn
	conns *conns
	heard atomic.Bool
}

func (n *conn) Read(b []byte) (int, error) {
	size, err := n.Conn.Read(b)
	if size > 0 {
		n.heard.Store(true)
	}
	return size, err
}

func (n *conn) Close() error {
	n.conns.remove(n)
	return n.Conn.Close()
}
