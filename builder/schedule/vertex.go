package schedule

import (
	"sync"
	"time"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	digest "github.com/opencontainers/go-digest"
)

// vertices are the states of a build's steps, as reported. A step that is in
// several graphs of the build is reported once.
type vertices struct {
	sink event.Sink
	mu   sync.Mutex
	m    map[digest.Digest]*event.Vertex
	// running are the steps that run, and for how many graphs of the build:
	// another one, that finds the result a moment before the run ends, doesn't
	// make them cached.
	running map[digest.Digest]int
	// ended: the build is closed, nothing is reported any more.
	ended bool
}

func newVertices(sink event.Sink) *vertices {
	return &vertices{sink: sink, m: map[digest.Digest]*event.Vertex{}, running: map[digest.Digest]int{}}
}

// add reports the steps that are new, as queued.
func (v *vertices) add(g *graph.Graph) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range g.Steps {
		if v.m[s.Digest] != nil {
			continue
		}
		x := &event.Vertex{Digest: s.Digest, Name: s.Meta.Name, Group: s.Meta.Group}
		for _, in := range s.Inputs {
			x.Inputs = append(x.Inputs, in.Step.Digest)
		}
		v.m[s.Digest] = x
		v.emit(x)
	}
}

// run reports that a step is run.
func (v *vertices) run(d digest.Digest) {
	v.mu.Lock()
	v.running[d]++
	v.mu.Unlock()
	v.start(d)
}

// start reports that work on a step has begun.
func (v *vertices) start(d digest.Digest) {
	v.change(d, func(x *event.Vertex, now time.Time) bool {
		if x.Started != nil && x.Completed == nil {
			return false
		}
		x.Started, x.Completed, x.Cached, x.Error = &now, nil, false, ""
		return true
	})
}

// cached reports that a step's result was known. A step that had to be worked
// for, to know so, is reported as done.
func (v *vertices) cached(d digest.Digest, worked bool) {
	v.change(d, func(x *event.Vertex, now time.Time) bool {
		if x.Completed != nil || v.running[d] > 0 {
			return false
		}
		if x.Started == nil {
			x.Started = &now
		}
		x.Completed, x.Cached = &now, !worked
		return true
	})
}

// complete reports the end of a step.
func (v *vertices) complete(d digest.Digest, err error) {
	v.change(d, func(x *event.Vertex, now time.Time) bool {
		delete(v.running, d)
		if x.Completed != nil {
			return false
		}
		if x.Started == nil {
			x.Started = &now
		}
		x.Completed = &now
		if err != nil {
			x.Error = err.Error()
		}
		return true
	})
}

// spare reports that one graph doesn't need a step's result any more that was begun
// ahead for it. The run ends if nobody else waits for it.
func (v *vertices) spare(d digest.Digest) {
	v.change(d, func(x *event.Vertex, now time.Time) bool {
		if v.running[d] == 0 {
			return false // it has ended meanwhile
		}
		if v.running[d]--; v.running[d] > 0 {
			return false
		}
		event.Progress{Sink: v.sink, Vertex: d}.Log(event.Stderr, []byte(spared))
		x.Completed = &now
		return true
	})
}

// spared is what a step shows that was begun ahead and is not needed.
const spared = "stopped: what this makes is not needed\n"

// close reports what is unfinished as cancelled.
func (v *vertices) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	for _, x := range v.m {
		if x.Started != nil && x.Completed == nil {
			x.Completed, x.Error = &now, "context canceled"
			v.emit(x)
		}
	}
	v.ended = true
}

func (v *vertices) change(d digest.Digest, f func(x *event.Vertex, now time.Time) bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if x := v.m[d]; x != nil && !v.ended && f(x, time.Now()) {
		v.emit(x)
	}
}

func (v *vertices) emit(x *event.Vertex) {
	c := *x
	v.sink.Emit(&c)
}
