// Package status turns the events of a build into the messages of the control
// API's Status call.
//
// A [Stream] writes them to a log as they come, and any number of clients read
// the log, while the build runs or long after it. So a client that comes late
// or is slow costs no memory, and what history keeps of a build is what its
// clients saw.
//
// A log is a sequence of frames: the length of a message in four bytes, little
// end first, and a marshalled StatusResponse. Build history hands it out as
// application/vnd.buildkit.status.v0.
package status

import (
	"strings"
	"time"

	"github.com/kiln-build/kiln/builder/event"
	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// MediaType is that of a log.
const MediaType = "application/vnd.buildkit.status.v0"

// Summary counts the steps of a build.
type Summary struct {
	// Total is the number of steps that were reported in any way; Completed of
	// them ended, successfully or not, and Cached of these needed no run.
	Total, Completed, Cached int
	Warnings                 int
}

func vertexPB(v *event.Vertex) *controlapi.Vertex {
	return &controlapi.Vertex{
		Digest:        v.Digest.String(),
		Inputs:        digestStrings(v.Inputs),
		Name:          text(v.Name),
		Cached:        v.Cached,
		Started:       timePB(v.Started),
		Completed:     timePB(v.Completed),
		Error:         text(v.Error),
		ProgressGroup: v.Group,
	}
}

func itemPB(s *event.Status) *controlapi.VertexStatus {
	return &controlapi.VertexStatus{
		ID:        text(s.ID),
		Name:      text(verb(s.ID)),
		Vertex:    s.Vertex.String(),
		Current:   s.Current,
		Total:     s.Total,
		Timestamp: timestamppb.New(s.Timestamp),
		Started:   timePB(s.Started),
		Completed: timePB(s.Completed),
	}
}

// verb is what is being done to an item: clients know "transferring" by it.
func verb(id string) string {
	verb, _, ok := strings.Cut(id, " ")
	if !ok {
		return ""
	}
	return verb
}

func logPB(l *event.Log, data []byte) *controlapi.VertexLog {
	return &controlapi.VertexLog{
		Vertex:    l.Vertex.String(),
		Timestamp: timestamppb.New(l.Timestamp),
		Stream:    int64(l.Stream),
		Msg:       data,
	}
}

func warningPB(w *event.Warning) *controlapi.VertexWarning {
	return &controlapi.VertexWarning{
		Vertex: w.Vertex.String(),
		Level:  int64(w.Level),
		Short:  w.Short,
		Detail: w.Detail,
		Url:    text(w.URL),
		Info:   w.Info,
		Ranges: w.Ranges,
	}
}

// text makes what comes from anywhere fit for a string on the wire.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func timePB(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

func digestStrings(in []digest.Digest) []string {
	out := make([]string, len(in))
	for i, d := range in {
		out[i] = d.String()
	}
	return out
}
