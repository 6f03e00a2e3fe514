package schedule

import (
	"slices"
	"sync"

	"github.com/kiln-build/kiln/builder/event"
	digest "github.com/opencontainers/go-digest"
)

// watch is a build's sink, which checks what is reported.
type watch struct {
	w     *world
	build string
	// simple: one graph, and no record vanishes, so that no step that was
	// reported as cached has to run after all.
	simple bool
	// calm: nobody is cancelled, so that no run is given up.
	calm bool

	mu       sync.Mutex
	closed   bool
	vertices map[digest.Digest]*event.Vertex
	logs     map[digest.Digest][]string
}

func newWatch(w *world, build string) *watch {
	return &watch{w: w, build: build, vertices: map[digest.Digest]*event.Vertex{}, logs: map[digest.Digest][]string{}}
}

func (c *watch) bad(format string, args ...any) { c.w.complain(c.build+": "+format, args...) }

// Emit implements event.Sink.
func (c *watch) Emit(e event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		c.bad("event after the end: %+v", e)
	}
	switch e := e.(type) {
	case *event.Vertex:
		c.vertex(e)
	case *event.Log:
		if c.vertices[e.Vertex] == nil {
			c.bad("log of a step that the build doesn't have")
		}
		c.logs[e.Vertex] = append(c.logs[e.Vertex], string(e.Data))
	}
}

func (c *watch) vertex(now *event.Vertex) {
	was := c.vertices[now.Digest]
	c.vertices[now.Digest] = now
	switch {
	case was == nil && now.Started != nil:
		c.bad("%s is reported without having been queued", now.Name)
	case was != nil && now.Started == nil:
		c.bad("%s is queued twice", now.Name)
	case now.Completed != nil && now.Started == nil:
		c.bad("%s is completed without having been started", now.Name)
	case was != nil && was.Completed != nil && now.Completed != nil:
		c.bad("%s is completed twice", now.Name)
	case c.simple && was != nil && was.Completed != nil:
		c.bad("%s is started again", now.Name)
	}
}

// end checks what was reported on a build that is closed. Where it succeeded,
// nothing may be left open.
func (c *watch) end(succeeded bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for d, v := range c.vertices {
		if v.Started != nil && v.Completed == nil {
			c.bad("%s is started and not completed", v.Name)
		}
		if succeeded && v.Completed == nil {
			c.bad("%s is not completed, but the build is", v.Name)
		}
		logs := c.logs[d]
		if len(logs) == 0 || !succeeded {
			continue
		}
		if v.Cached {
			c.bad("%s ran, and is reported as cached", v.Name)
		}
		if v.Error != "" {
			c.bad("%s is reported to have failed (%s), and the build succeeded", v.Name, v.Error)
		}
		// What was begun ahead and then not needed is given up when the rest is done.
		if slices.Contains(logs, spared) {
			continue
		}
		if logs[0] != "begin" || c.calm && logs[len(logs)-1] != "end" {
			c.bad("%s has the output %q", v.Name, logs)
		}
	}
}
