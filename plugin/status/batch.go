package status

import (
	"cmp"
	"slices"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// batch is what was reported since the last frame. Of several reports on the
// same vertex or item only the last is kept, in the place of the first.
type batch struct {
	msg      controlapi.StatusResponse
	vertices map[string]int
	items    map[itemKey]int
	logBytes int
}

type itemKey struct{ vertex, id string }

func newBatch() *batch {
	return &batch{vertices: map[string]int{}, items: map[itemKey]int{}}
}

func (b *batch) addVertex(v *controlapi.Vertex) {
	if i, ok := b.vertices[v.Digest]; ok {
		b.msg.Vertexes[i] = v
		return
	}
	b.vertices[v.Digest] = len(b.msg.Vertexes)
	b.msg.Vertexes = append(b.msg.Vertexes, v)
}

func (b *batch) addItem(s *controlapi.VertexStatus) {
	key := itemKey{s.Vertex, s.ID}
	if i, ok := b.items[key]; ok {
		b.msg.Statuses[i] = s
		return
	}
	b.items[key] = len(b.msg.Statuses)
	b.msg.Statuses = append(b.msg.Statuses, s)
}

func (b *batch) addLog(l *controlapi.VertexLog) {
	if len(l.Msg) == 0 {
		return
	}
	b.logBytes += len(l.Msg)
	b.msg.Logs = append(b.msg.Logs, l)
}

// messageSize bounds a message, but for a single report that is larger.
const messageSize = 1 << 20

// messages gives the batch as messages of bounded size: first vertices, those
// not started before those that are by their start, then items, logs by time,
// and warnings.
func (b *batch) messages() []*controlapi.StatusResponse {
	sortMessage(&b.msg)
	var out []*controlapi.StatusResponse
	size := messageSize
	room := func(n int) *controlapi.StatusResponse {
		if size+n > messageSize {
			out = append(out, &controlapi.StatusResponse{})
			size = 0
		}
		size += n
		return out[len(out)-1]
	}
	for _, v := range b.msg.Vertexes {
		m := room(v.SizeVT())
		m.Vertexes = append(m.Vertexes, v)
	}
	for _, s := range b.msg.Statuses {
		m := room(s.SizeVT())
		m.Statuses = append(m.Statuses, s)
	}
	for _, l := range b.msg.Logs {
		for _, part := range splitLog(l) {
			m := room(part.SizeVT())
			m.Logs = append(m.Logs, part)
		}
	}
	for _, w := range b.msg.Warnings {
		m := room(w.SizeVT())
		m.Warnings = append(m.Warnings, w)
	}
	return out
}

// splitLog cuts output that is too large for a message.
func splitLog(l *controlapi.VertexLog) []*controlapi.VertexLog {
	const most = messageSize / 2
	var parts []*controlapi.VertexLog
	for data := range slices.Chunk(l.Msg, most) {
		parts = append(parts, &controlapi.VertexLog{Vertex: l.Vertex, Timestamp: l.Timestamp, Stream: l.Stream, Msg: data})
	}
	return parts
}

// sortMessage puts the parts of a message into the order that clients expect.
func sortMessage(m *controlapi.StatusResponse) {
	slices.SortStableFunc(m.Vertexes, func(a, b *controlapi.Vertex) int { return compareTimes(a.Started, b.Started) })
	slices.SortStableFunc(m.Statuses, func(a, b *controlapi.VertexStatus) int { return compareTimes(a.Timestamp, b.Timestamp) })
	slices.SortStableFunc(m.Logs, func(a, b *controlapi.VertexLog) int { return compareTimes(a.Timestamp, b.Timestamp) })
}

// compareTimes orders no time before any time.
func compareTimes(a, b *timestamppb.Timestamp) int {
	return cmp.Or(cmp.Compare(a.GetSeconds(), b.GetSeconds()), cmp.Compare(a.GetNanos(), b.GetNanos()))
}

// interval is how long reports are gathered for a frame, unless the build ends.
const interval = 20 * time.Millisecond
