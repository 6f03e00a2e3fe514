package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/codes"
)

// Newest returns the builds that match any of the filters, the last started first.
func Newest(ctx context.Context, control controlapi.ControlClient, filters []string) ([]*controlapi.BuildHistoryRecord, error) {
	var records []*controlapi.BuildHistoryRecord
	err := Builds(ctx, control, &controlapi.BuildHistoryRequest{Filter: filters}, func(event *controlapi.BuildHistoryEvent) error {
		if event.Type != controlapi.BuildHistoryEventType_DELETED {
			records = append(records, event.Record)
		}
		return nil
	})
	slices.SortStableFunc(records, func(a, b *controlapi.BuildHistoryRecord) int {
		return b.GetCreatedAt().AsTime().Compare(a.GetCreatedAt().AsTime())
	})
	return records, err
}

// List prints the builds that match any of the filters, the last started first. The
// format is applied to each record.
func List(ctx context.Context, control controlapi.ControlClient, filters []string, format *Template, out io.Writer) error {
	records, err := Newest(ctx, control, filters)
	if err != nil {
		return err
	}
	columns := table(out)
	if format == nil {
		fmt.Fprintln(columns, "REF\tSTATUS\tSTEPS\tCACHED\tSTARTED\tDURATION\tWHAT")
	}
	for _, record := range records {
		if format != nil {
			if err := line(out, format, record); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(columns, "%s\t%s\t%d/%d\t%d\t%s\t%s\t%s\n", record.Ref, state(record), record.NumCompletedSteps, record.NumTotalSteps,
			record.NumCachedSteps, ago(record.GetCreatedAt().AsTime()), duration(record), subject(record))
	}
	return columns.Flush()
}

// Inspect prints one record.
func Inspect(record *controlapi.BuildHistoryRecord, format *Template, out io.Writer) error {
	if format != nil {
		return line(out, format, record)
	}
	columns := table(out)
	pair := func(key, value string) {
		if value != "" {
			fmt.Fprintf(columns, "%s:\t%s\n", key, value)
		}
	}
	pair("Ref", record.GetRef())
	pair("Status", state(record))
	pair("Error", record.GetError().GetMessage())
	pair("Started", clock(record.GetCreatedAt()))
	pair("Completed", clock(record.GetCompletedAt()))
	pair("Duration", duration(record))
	pair("Steps", fmt.Sprintf("%d, %d completed, %d cached", record.GetNumTotalSteps(), record.GetNumCompletedSteps(), record.GetNumCachedSteps()))
	if record.GetNumWarnings() > 0 {
		pair("Warnings", fmt.Sprint(record.GetNumWarnings()))
	}
	pair("Frontend", record.GetFrontend())
	pairs(columns, "Options", record.GetFrontendAttrs())
	for _, exporter := range record.GetExporters() {
		fmt.Fprintf(columns, "Output:\t%s\n", exporter.GetType())
		for _, key := range slices.Sorted(maps.Keys(exporter.GetAttrs())) {
			fmt.Fprintf(columns, "\t%s:\t%s\n", key, exporter.GetAttrs()[key])
		}
	}
	result := maps.Clone(record.GetExporterResponse())
	delete(result, ExplainOption)
	pairs(columns, "Result", result)
	for _, attestation := range record.GetResult().GetAttestations() {
		fmt.Fprintf(columns, "Attestation:\t%s\t%s\n", attestation.GetAnnotations()["in-toto.io/predicate-type"], attestation.GetDigest())
	}
	if record.GetPinned() {
		pair("Pinned", "true")
	}
	err := columns.Flush()
	if record.GetExporterResponse()[ExplainOption] != "" {
		err = errors.Join(err, Explain(out, record.GetExporterResponse()))
	}
	return err
}

func state(record *controlapi.BuildHistoryRecord) string {
	switch {
	case record.GetCompletedAt() == nil:
		return "running"
	case record.GetError() == nil:
		return "completed"
	case codes.Code(record.GetError().GetCode()) == codes.Canceled:
		return "canceled"
	}
	return "error"
}

func duration(record *controlapi.BuildHistoryRecord) string {
	end := time.Now()
	if record.GetCompletedAt() != nil {
		end = record.GetCompletedAt().AsTime()
	}
	return end.Sub(record.GetCreatedAt().AsTime()).Round(100 * time.Millisecond).String()
}

// subject is what a build was of, in a word or two.
func subject(record *controlapi.BuildHistoryRecord) string {
	attrs := record.GetFrontendAttrs()
	for _, output := range record.GetExporters() {
		if name := output.GetAttrs()["name"]; name != "" {
			return name
		}
	}
	for _, key := range []string{"context", "target", "filename"} {
		if attrs[key] != "" {
			return attrs[key]
		}
	}
	return record.GetFrontend()
}
