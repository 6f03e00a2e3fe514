// Package event holds what a build reports while it runs: the state of its
// steps, the progress of what a step does, log output and warnings. Events are
// plain values; sinks may keep them but not change them.
package event

import (
	"time"

	"github.com/kiln-build/kiln/builder/event/usage"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// Event is one of *Vertex, *Status, *Log, *Warning, *Usage and *Fetches.
type Event interface{ event() }

// Sink takes events. Emit must not block for long and may be called from
// several goroutines at once.
type Sink interface{ Emit(Event) }

// Vertex is the state of a step; a later Vertex with the same digest replaces
// an earlier one. Started is nil while the step is queued.
type Vertex struct {
	Digest    digest.Digest
	Inputs    []digest.Digest
	Name      string
	Started   *time.Time
	Completed *time.Time
	Cached    bool
	Error     string
	Group     *pb.ProgressGroup
}

// Status is the progress of one item of a step, such as a layer that is being
// pulled; ID is unique within the vertex. Current and Total count bytes where
// Total is not zero.
type Status struct {
	Vertex    digest.Digest
	ID        string
	Current   int64
	Total     int64
	Timestamp time.Time
	Started   *time.Time
	Completed *time.Time
}

// The streams of a Log.
const (
	Stdout = 1
	Stderr = 2
)

// Log is output of a step.
type Log struct {
	Vertex    digest.Digest
	Stream    int
	Data      []byte
	Timestamp time.Time
}

// Warning is advice to the author of the build, with the place it is about.
type Warning struct {
	Vertex digest.Digest
	Level  int
	Short  []byte
	Detail [][]byte
	URL    string
	Info   *pb.SourceInfo
	Ranges []*pb.Range
}

// Usage is what the processes of a step have used up to a moment. A later one takes
// the place of an earlier one: it includes that.
type Usage struct {
	Vertex digest.Digest
	Sample usage.Sample
}

func (*Vertex) event()  {}
func (*Status) event()  {}
func (*Log) event()     {}
func (*Warning) event() {}
func (*Usage) event()   {}
func (*Fetches) event() {}

// Discard is a sink that drops everything.
var Discard Sink = discard{}

type discard struct{}

func (discard) Emit(Event) {}
