package event

import (
	"io"
	"sync"
	"time"

	"github.com/kiln-build/kiln/builder/event/usage"
	digest "github.com/opencontainers/go-digest"
)

// Progress reports on behalf of one vertex. The zero value drops everything.
type Progress struct {
	Sink   Sink
	Vertex digest.Digest
}

func (p Progress) emit(e Event) {
	if p.Sink != nil {
		p.Sink.Emit(e)
	}
}

// Log reports a copy of data as output on the stream.
func (p Progress) Log(stream int, data []byte) {
	p.emit(&Log{Vertex: p.Vertex, Stream: stream, Data: append([]byte(nil), data...), Timestamp: time.Now()})
}

// Warn reports a warning about the vertex.
func (p Progress) Warn(short string) {
	p.emit(&Warning{Vertex: p.Vertex, Level: 1, Short: []byte(short)})
}

// Used reports what the vertex' processes have used.
func (p Progress) Used(s usage.Sample) { p.emit(&Usage{Vertex: p.Vertex, Sample: s}) }

// Fetched reports what the vertex' processes have fetched.
func (p Progress) Fetched(all []Fetch, more int) {
	p.emit(&Fetches{Vertex: p.Vertex, All: all, More: more})
}

// Writer gives the stream as an io.Writer that never fails.
func (p Progress) Writer(stream int) io.Writer { return logWriter{p, stream} }

type logWriter struct {
	p      Progress
	stream int
}

func (w logWriter) Write(b []byte) (int, error) {
	w.p.Log(w.stream, b)
	return len(b), nil
}

// Item is one thing a step is busy with. It is safe for concurrent use.
type Item struct {
	p       Progress
	id      string
	started time.Time
	mu      sync.Mutex
	sent    time.Time
	current int64
	total   int64
	done    bool
}

// Begin reports that work on the named item has started.
func (p Progress) Begin(id string) *Item {
	i := &Item{p: p, id: id, started: time.Now()}
	p.emit(&Status{Vertex: p.Vertex, ID: id, Timestamp: i.started, Started: &i.started})
	return i
}

// updateEvery bounds how often an item in progress is reported.
const updateEvery = 100 * time.Millisecond

// Set reports that current of total bytes are done; total 0 means unknown.
func (i *Item) Set(current, total int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.current, i.total = current, total
	now := time.Now()
	if i.done || now.Sub(i.sent) < updateEvery && current != total {
		return
	}
	i.sent = now
	i.p.emit(&Status{Vertex: i.p.Vertex, ID: i.id, Current: current, Total: total, Timestamp: now, Started: &i.started})
}

// Done reports the end of the item. Only the first call counts.
func (i *Item) Done() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.done {
		return
	}
	i.done = true
	now := time.Now()
	i.p.emit(&Status{
		Vertex: i.p.Vertex, ID: i.id, Current: i.current, Total: i.total,
		Timestamp: now, Started: &i.started, Completed: &now,
	})
}
