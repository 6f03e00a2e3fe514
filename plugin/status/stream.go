package status

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/kiln-build/kiln/builder/event"
	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
)

// Log is where a stream writes; an *os.File is one. Reads may come at any time,
// also after the stream's end.
type Log interface {
	io.Writer
	io.ReaderAt
}

// pendingLimit is how much output may wait to be written before Emit blocks.
const pendingLimit = 8 << 20

// Stream takes the events of one build. It implements [event.Sink].
type Stream struct {
	log    Log
	limits Limits

	mu       sync.Mutex
	drained  sync.Cond // pending was taken
	pending  *batch
	closing  bool
	vertices map[digest.Digest]*event.Vertex
	outputs  map[output]*limiter
	warnings int
	wake     chan struct{} // holds one element where something is pending
	stop     chan struct{} // closed with closing

	written fileState
	ended   chan struct{} // closed when all is written
}

type output struct {
	vertex digest.Digest
	stream int
}

// New starts a stream that ends with Close. The log stays the caller's.
func New(log Log, limits Limits) *Stream {
	s := &Stream{
		log:      log,
		limits:   limits,
		pending:  newBatch(),
		vertices: map[digest.Digest]*event.Vertex{},
		outputs:  map[output]*limiter{},
		wake:     make(chan struct{}, 1),
		stop:     make(chan struct{}),
		ended:    make(chan struct{}),
	}
	s.drained.L = &s.mu
	s.written.changed = make(chan struct{})
	go s.write()
	return s
}

// Emit implements [event.Sink]. What comes after Close is dropped.
func (s *Stream) Emit(e event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.pending.logBytes > pendingLimit && !s.closing {
		s.drained.Wait()
	}
	if s.closing {
		return
	}
	switch e := e.(type) {
	case *event.Vertex:
		s.vertex(e)
	case *event.Status:
		s.pending.addItem(itemPB(e))
	case *event.Log:
		s.output(e)
	case *event.Warning:
		s.warnings++
		s.pending.msg.Warnings = append(s.pending.msg.Warnings, warningPB(e))
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// vertex takes a step's state. A step that starts has got its inputs: those
// that were never reported to run came from the cache.
func (s *Stream) vertex(v *event.Vertex) {
	before := s.vertices[v.Digest]
	s.vertices[v.Digest] = v
	if v.Started != nil && (before == nil || before.Started == nil) {
		s.cacheInputs(v)
	}
	if v.Completed != nil {
		s.endOutput(v)
	}
	s.pending.addVertex(vertexPB(v))
}

func (s *Stream) cacheInputs(v *event.Vertex) {
	for _, d := range v.Inputs {
		in := s.vertices[d]
		if in == nil || in.Started != nil || in.Completed != nil {
			continue
		}
		cached := *in
		cached.Started, cached.Completed, cached.Cached = v.Started, v.Started, true
		s.vertex(&cached)
	}
}

func (s *Stream) output(l *event.Log) {
	key := output{l.Vertex, l.Stream}
	lim := s.outputs[key]
	if lim == nil {
		lim = &limiter{limits: s.limits, started: l.Timestamp}
		s.outputs[key] = lim
	}
	s.pending.addLog(logPB(l, lim.clip(l.Data, l.Timestamp)))
}

// endOutput shows the end of a failed step's output where it was clipped.
func (s *Stream) endOutput(v *event.Vertex) {
	for _, stream := range []int{event.Stdout, event.Stderr} {
		key := output{v.Digest, stream}
		if lim := s.outputs[key]; lim != nil && v.Error != "" {
			l := &event.Log{Vertex: v.Digest, Stream: stream, Timestamp: *v.Completed}
			s.pending.addLog(logPB(l, lim.last()))
		}
		delete(s.outputs, key)
	}
}

// Close ends the stream: steps that are still running are reported as
// cancelled, and all is written when it returns. It fails where the log could
// not be written.
func (s *Stream) Close() error {
	s.mu.Lock()
	if !s.closing {
		now := time.Now()
		for _, v := range s.vertices {
			if v.Started != nil && v.Completed == nil {
				end := *v
				end.Completed, end.Error = &now, context.Canceled.Error()
				s.vertex(&end)
			}
		}
		s.closing = true
		close(s.stop)
		s.drained.Broadcast()
	}
	s.mu.Unlock()
	<-s.ended
	return s.written.failure()
}

// Summary counts what was reported so far.
func (s *Stream) Summary() Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := Summary{Total: len(s.vertices), Warnings: s.warnings}
	for _, v := range s.vertices {
		if v.Completed != nil {
			sum.Completed++
			if v.Cached {
				sum.Cached++
			}
		}
	}
	return sum
}

// Follow gives all messages of the build to send, those of the past first, and
// returns after the last one. It fails with send's error, ctx's or that of the
// log.
func (s *Stream) Follow(ctx context.Context, send func(*controlapi.StatusResponse) error) error {
	var at int64
	for {
		size, changed := s.written.state()
		if err := Send(s.log, at, size, send); err != nil {
			return err
		}
		at = size
		if changed == nil {
			return s.written.failure()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
