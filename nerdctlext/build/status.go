package build

import (
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// statusOf converts a message of the wire into what a display draws, with all times
// moved by skew.
func statusOf(message *controlapi.StatusResponse, skew time.Duration) *client.SolveStatus {
	at := func(ts *timestamppb.Timestamp) *time.Time {
		if ts == nil {
			return nil
		}
		moved := ts.AsTime().Add(skew)
		return &moved
	}
	must := func(ts *timestamppb.Timestamp) time.Time {
		if moved := at(ts); moved != nil {
			return *moved
		}
		return time.Now()
	}
	status := &client.SolveStatus{}
	for _, v := range message.GetVertexes() {
		inputs := make([]digest.Digest, len(v.GetInputs()))
		for i, input := range v.GetInputs() {
			inputs[i] = digest.Digest(input)
		}
		status.Vertexes = append(status.Vertexes, &client.Vertex{
			Digest: digest.Digest(v.GetDigest()), Inputs: inputs, Name: v.GetName(),
			Started: at(v.GetStarted()), Completed: at(v.GetCompleted()),
			Cached: v.GetCached(), Error: v.GetError(), ProgressGroup: v.GetProgressGroup(),
		})
	}
	for _, s := range message.GetStatuses() {
		status.Statuses = append(status.Statuses, &client.VertexStatus{
			ID: s.GetID(), Vertex: digest.Digest(s.GetVertex()), Name: s.GetName(),
			Total: s.GetTotal(), Current: s.GetCurrent(),
			Timestamp: must(s.GetTimestamp()), Started: at(s.GetStarted()), Completed: at(s.GetCompleted()),
		})
	}
	for _, l := range message.GetLogs() {
		status.Logs = append(status.Logs, &client.VertexLog{
			Vertex: digest.Digest(l.GetVertex()), Stream: int(l.GetStream()),
			Data: l.GetMsg(), Timestamp: must(l.GetTimestamp()),
		})
	}
	for _, warning := range message.GetWarnings() {
		status.Warnings = append(status.Warnings, &client.VertexWarning{
			Vertex: digest.Digest(warning.GetVertex()), Level: int(warning.GetLevel()),
			Short: warning.GetShort(), Detail: warning.GetDetail(), URL: warning.GetUrl(),
			SourceInfo: warning.GetInfo(), Range: warning.GetRanges(),
		})
	}
	return status
}
