package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
)

// Usage is one record of a daemon's cache.
type Usage struct {
	ID      string `json:"id"`
	Mutable bool   `json:"mutable"`
	InUse   bool   `json:"inUse"`
	// Size is in bytes, -1 when it is not known.
	Size        int64      `json:"size"`
	CreatedAt   time.Time  `json:"createdAt"`
	LastUsedAt  *time.Time `json:"lastUsedAt"`
	UsageCount  int        `json:"usageCount"`
	Parents     []string   `json:"parents"`
	Description string     `json:"description"`
	RecordType  string     `json:"recordType"`
	Shared      bool       `json:"shared"`
}

func usageOf(record *controlapi.UsageRecord) Usage {
	usage := Usage{
		ID: record.GetID(), Mutable: record.GetMutable(), InUse: record.GetInUse(), Size: record.GetSize(),
		CreatedAt: record.GetCreatedAt().AsTime(), UsageCount: int(record.GetUsageCount()),
		Parents: record.GetParents(), Description: record.GetDescription(),
		RecordType: record.GetRecordType(), Shared: record.GetShared(),
	}
	if record.GetLastUsedAt() != nil {
		at := record.GetLastUsedAt().AsTime()
		usage.LastUsedAt = &at
	}
	return usage
}

// Style is how records are printed.
type Style struct {
	// Format overrules Verbose.
	Format  *Template
	Verbose bool
}

// everything are filters that all records match. A daemon lists what is no record but
// takes space where one of them names its type, which other daemons don't know.
var everything = []string{"type!=system", "type==system"}

// WholeDiskUsage is DiskUsage of all that takes space.
func WholeDiskUsage(ctx context.Context, control controlapi.ControlClient, style Style, out io.Writer) error {
	return DiskUsage(ctx, control, everything, style, out)
}

// DiskUsage prints the records that match any of the filters, the largest first, and the
// sum where that is all of them. The format is applied once, to the whole list.
func DiskUsage(ctx context.Context, control controlapi.ControlClient, filters []string, style Style, out io.Writer) error {
	response, err := control.DiskUsage(ctx, &controlapi.DiskUsageRequest{Filter: filters})
	if err != nil {
		return fmt.Errorf("asking for the disk usage: %w", err)
	}
	var records []Usage
	for _, record := range response.GetRecord() {
		records = append(records, usageOf(record))
	}
	slices.SortFunc(records, func(a, b Usage) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.ID, b.ID))
	})
	if style.Format != nil {
		return line(out, style.Format, records)
	}
	columns := table(out)
	if style.Verbose {
		for _, record := range records {
			record.details(columns)
		}
	} else {
		header(columns)
		for _, record := range records {
			record.row(columns)
		}
	}
	columns.Flush()
	if len(filters) == 0 || slices.Equal(filters, everything) {
		summary(columns, records)
	}
	return columns.Flush()
}

// Prune removes what the request describes and prints each record as it goes, then the
// sum. The format is applied to each record.
func Prune(ctx context.Context, control controlapi.ControlClient, request *controlapi.PruneRequest, style Style, out io.Writer) error {
	stream, err := control.Prune(ctx, request)
	if err != nil {
		return fmt.Errorf("pruning: %w", err)
	}
	columns := table(out)
	var total int64
	for first := true; ; first = false {
		record, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("pruning: %w", err)
		}
		usage := usageOf(record)
		total += max(usage.Size, 0)
		switch {
		case style.Format != nil:
			if err := line(out, style.Format, usage); err != nil {
				return err
			}
			continue
		case style.Verbose:
			usage.details(columns)
		default:
			if first {
				header(columns)
			}
			usage.row(columns)
		}
		columns.Flush()
	}
	if style.Format == nil {
		fmt.Fprintf(columns, "Total:\t%s\n", size(total))
	}
	return columns.Flush()
}

func header(out *tabwriter.Writer) { fmt.Fprintln(out, "ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED") }

func (u Usage) row(out *tabwriter.Writer) {
	id, bytes, accessed := u.ID, size(u.Size), ""
	if u.Mutable {
		id += "*"
	}
	if u.Shared {
		bytes += "*"
	}
	if u.LastUsedAt != nil {
		accessed = ago(*u.LastUsedAt)
	}
	fmt.Fprintf(out, "%-71s\t%-11v\t%s\t%s\n", id, !u.InUse, bytes, accessed)
}

func (u Usage) details(out *tabwriter.Writer) {
	pair := func(key string, value any) { fmt.Fprintf(out, "%s:\t%v\n", key, value) }
	pair("ID", u.ID)
	if len(u.Parents) > 0 {
		pair("Parents", strings.Join(u.Parents, ";"))
	}
	pair("Created at", u.CreatedAt)
	pair("Mutable", u.Mutable)
	pair("Reclaimable", !u.InUse)
	pair("Shared", u.Shared)
	pair("Size", size(u.Size))
	if u.Description != "" {
		pair("Description", u.Description)
	}
	pair("Usage count", u.UsageCount)
	if u.LastUsedAt != nil {
		pair("Last used", *u.LastUsedAt)
	}
	if u.RecordType != "" {
		pair("Type", u.RecordType)
	}
	fmt.Fprintln(out)
}

func summary(out *tabwriter.Writer, records []Usage) {
	var total, reclaimable, shared int64
	for _, record := range records {
		bytes := max(record.Size, 0)
		total += bytes
		if !record.InUse {
			reclaimable += bytes
		}
		if record.Shared {
			shared += bytes
		}
	}
	if shared > 0 {
		fmt.Fprintf(out, "Shared:\t%s\n", size(shared))
		fmt.Fprintf(out, "Private:\t%s\n", size(total-shared))
	}
	fmt.Fprintf(out, "Reclaimable:\t%s\n", size(reclaimable))
	fmt.Fprintf(out, "Total:\t%s\n", size(total))
}

func ago(at time.Time) string {
	passed := time.Since(at)
	switch {
	case passed < time.Minute:
		return "just now"
	case passed < time.Hour:
		return fmt.Sprintf("%d minutes ago", int(passed.Minutes()))
	case passed < 48*time.Hour:
		return fmt.Sprintf("%d hours ago", int(passed.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(passed.Hours()/24))
}
