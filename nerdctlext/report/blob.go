package report

import (
	"context"
	"errors"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
)

// errStop ends a listing early.
var errStop = errors.New("stop")

// Blob copies a blob of the daemon's content store to out.
func Blob(ctx context.Context, conn grpc.ClientConnInterface, digest string, out io.Writer) error {
	stream, err := contentapi.NewContentClient(conn).Read(ctx, &contentapi.ReadContentRequest{Digest: digest})
	if err != nil {
		return fmt.Errorf("reading %s: %w", digest, err)
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", digest, err)
		}
		if _, err := out.Write(part.GetData()); err != nil {
			return err
		}
	}
}

// Record returns what the daemon knows of one build.
func Record(ctx context.Context, control controlapi.ControlClient, ref string) (*controlapi.BuildHistoryRecord, error) {
	var found *controlapi.BuildHistoryRecord
	err := Builds(ctx, control, &controlapi.BuildHistoryRequest{Ref: ref}, func(event *controlapi.BuildHistoryEvent) error {
		if event.Record.Ref != ref {
			return nil
		}
		found = event.Record
		return errStop
	})
	if err != nil && !errors.Is(err, errStop) {
		return nil, err
	}
	if found == nil {
		return nil, fmt.Errorf("build %s is not in the history", ref)
	}
	return found, nil
}

// Trace copies the OpenTelemetry trace of a finished build to out, one JSON document in
// each line.
func Trace(ctx context.Context, conn grpc.ClientConnInterface, ref string, out io.Writer) error {
	record, err := Record(ctx, controlapi.NewControlClient(conn), ref)
	if err != nil {
		return err
	}
	if record.GetTrace() == nil {
		return fmt.Errorf("build %s has no trace", ref)
	}
	return Blob(ctx, conn, record.Trace.Digest, out)
}
