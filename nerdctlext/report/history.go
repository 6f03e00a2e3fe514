package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Builds calls fn with each build that the daemon knows now: those that run, then the
// finished ones that match the request. It does not wait for further ones.
func Builds(ctx context.Context, control controlapi.ControlClient, request *controlapi.BuildHistoryRequest, fn func(*controlapi.BuildHistoryEvent) error) error {
	request.EarlyExit = true
	return Events(ctx, control, request, fn)
}

// Events calls fn with each event of the history as it comes, until the daemon ends the
// stream.
func Events(ctx context.Context, control controlapi.ControlClient, request *controlapi.BuildHistoryRequest, fn func(*controlapi.BuildHistoryEvent) error) error {
	stream, err := control.ListenBuildHistory(ctx, request)
	if err != nil {
		return fmt.Errorf("listening to the build history: %w", err)
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listening to the build history: %w", err)
		}
		if event.GetRecord() == nil {
			continue
		}
		if err := fn(event); err != nil {
			return err
		}
	}
}

// Histories prints all builds. The format is applied to each event.
func Histories(ctx context.Context, control controlapi.ControlClient, format *Template, out io.Writer) error {
	columns := table(out)
	if format == nil {
		fmt.Fprintln(columns, "TYPE\tREF\tCREATED\tCOMPLETED\tGENERATION\tPINNED")
	}
	err := Builds(ctx, control, &controlapi.BuildHistoryRequest{}, func(event *controlapi.BuildHistoryEvent) error {
		if format != nil {
			return line(out, format, event)
		}
		record := event.Record
		pinned := ""
		if record.GetPinned() {
			pinned = "*"
		}
		fmt.Fprintf(columns, "%s\t%s\t%s\t%s\t%d\t%s\n", event.Type, record.Ref, clock(record.CreatedAt), clock(record.CompletedAt), record.Generation, pinned)
		return nil
	})
	return errors.Join(err, columns.Flush())
}

// PruneHistories forgets all finished builds that are not pinned, and prints them. What
// cannot be forgotten does not stop the rest.
func PruneHistories(ctx context.Context, control controlapi.ControlClient, format *Template, out io.Writer) error {
	columns := table(out)
	if format == nil {
		fmt.Fprintln(columns, "TYPE\tREF\tCREATED\tCOMPLETED\tGENERATION")
	}
	var failed []error
	err := Builds(ctx, control, &controlapi.BuildHistoryRequest{}, func(event *controlapi.BuildHistoryEvent) error {
		record := event.Record
		if record.GetPinned() {
			return nil
		}
		if err := Forget(ctx, control, record.Ref); err != nil {
			failed = append(failed, err)
			return nil
		}
		if format != nil {
			return line(out, format, event)
		}
		fmt.Fprintf(columns, "%s\t%s\t%s\t%s\t%d\n", event.Type, record.Ref, clock(record.CreatedAt), clock(record.CompletedAt), record.Generation)
		return columns.Flush()
	})
	return errors.Join(append(failed, err, columns.Flush())...)
}

// Forget removes one build from the history.
func Forget(ctx context.Context, control controlapi.ControlClient, ref string) error {
	_, err := control.UpdateBuildHistory(ctx, &controlapi.UpdateBuildHistoryRequest{Ref: ref, Delete: true})
	if err != nil {
		return fmt.Errorf("removing build %s: %w", ref, err)
	}
	return nil
}

// Monitor prints the events of the history as they come.
func Monitor(ctx context.Context, control controlapi.ControlClient, request *controlapi.BuildHistoryRequest, out io.Writer) error {
	return Events(ctx, control, request, func(event *controlapi.BuildHistoryEvent) error {
		record := event.Record
		fmt.Fprintf(out, "event: %s ref:%s\n", event.Type, record.Ref)
		if record.NumTotalSteps != 0 {
			fmt.Fprintf(out, "  cache: %d/%d\n", record.NumCachedSteps, record.NumTotalSteps)
		}
		if record.NumWarnings != 0 {
			fmt.Fprintf(out, "  warnings: %d\n", record.NumWarnings)
		}
		if record.Logs != nil {
			fmt.Fprintf(out, "  logs: %s\n", record.Logs)
		}
		if record.Trace != nil {
			fmt.Fprintf(out, "  trace: %s\n", record.Trace)
		}
		printResult(out, "", record.Result)
		for platform, result := range record.Results {
			printResult(out, "["+platform+"] ", result)
		}
		return nil
	})
}

func printResult(out io.Writer, prefix string, result *controlapi.BuildResultInfo) {
	for _, descriptor := range result.GetResults() {
		fmt.Fprintf(out, "  %sdescriptor: %s\n", prefix, descriptor)
	}
	if len(result.GetResults()) == 0 && result.GetResultDeprecated() != nil {
		fmt.Fprintf(out, "  %sdescriptor: %s\n", prefix, result.ResultDeprecated)
	}
	for _, attestation := range result.GetAttestations() {
		fmt.Fprintf(out, "  %sattestation: %s\n", prefix, attestation)
	}
}

// clock writes a time of the daemon in this side's zone; "" for none.
func clock(at *timestamppb.Timestamp) string {
	if at == nil {
		return ""
	}
	return at.AsTime().Local().Format(time.RFC3339)
}
