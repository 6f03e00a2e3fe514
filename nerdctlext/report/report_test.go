package report_test

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/solver/pb"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kiln-build/kiln/nerdctlext/daemontest"
	"github.com/kiln-build/kiln/nerdctlext/dial"
	"github.com/kiln-build/kiln/nerdctlext/internal/golden"
	"github.com/kiln-build/kiln/nerdctlext/report"
)

// daemon has one of everything.
func daemon(t *testing.T) (*daemontest.Daemon, controlapi.ControlClient) {
	t.Helper()
	d := daemontest.Start(t)
	at := func(seconds int64) *timestamppb.Timestamp { return timestamppb.New(time.Unix(seconds, 0)) }
	d.Usage = []*controlapi.UsageRecord{
		{ID: "small", Size: 1500, CreatedAt: at(0), InUse: true, RecordType: "regular"},
		{ID: "unknown", Size: -1},
		{ID: "large", Size: 2e6, Mutable: true, Shared: true, CreatedAt: at(1), LastUsedAt: at(2), UsageCount: 3, Parents: []string{"a", "b"}, Description: "<RUN>", RecordType: "exec.cachemount"},
	}
	d.Workers = []*apitypes.WorkerRecord{{
		ID: "w1", Labels: map[string]string{"b": "2", "a": "1"},
		Platforms:       []*pb.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}},
		GCPolicy:        []*apitypes.GCPolicy{{Filters: []string{"type==x"}, KeepDuration: int64(time.Hour), MaxUsedSpace: 5e9}, {All: true}},
		BuildkitVersion: &apitypes.BuildkitVersion{Package: "p", Version: "v", Revision: "r"},
		CDIDevices:      []*apitypes.CDIDevice{{Name: "vendor/class=x", AutoAllow: true, Annotations: map[string]string{"k": "v"}}},
	}, {ID: "w2"}}
	d.History = []*controlapi.BuildHistoryEvent{
		{Type: controlapi.BuildHistoryEventType_COMPLETE, Record: &controlapi.BuildHistoryRecord{
			Ref: "old", CreatedAt: at(10), CompletedAt: at(12), Frontend: "dockerfile.v0", Pinned: true, Generation: 2,
			FrontendAttrs: map[string]string{"target": "t"}, NumTotalSteps: 3, NumCompletedSteps: 3, NumCachedSteps: 1,
			Exporters: []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"name": "app"}}}, ExporterResponse: map[string]string{"containerimage.digest": "sha256:0"},
		}},
		{Type: controlapi.BuildHistoryEventType_COMPLETE, Record: &controlapi.BuildHistoryRecord{
			Ref: "new", CreatedAt: at(20), CompletedAt: at(21), Error: &rpcstatus.Status{Code: 2, Message: "exit code: 1"},
			FrontendAttrs: map[string]string{"context": "https://example.com/app.git"},
		}},
		{Type: controlapi.BuildHistoryEventType_COMPLETE}, // without a record
		{Type: controlapi.BuildHistoryEventType_COMPLETE, Record: &controlapi.BuildHistoryRecord{
			Ref: "ended", CreatedAt: at(15), CompletedAt: at(16), Error: &rpcstatus.Status{Code: 1},
		}},
	}
	conn, err := dial.Dial(dial.Options{Address: d.Address()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return d, controlapi.NewControlClient(conn)
}

// TestReports reads cases of the form REPORT [-v] [FORMAT].
func TestReports(t *testing.T) {
	_, control := daemon(t)
	golden.Run(t, "testdata/reports.txt", func(t *testing.T, input string) string {
		words := golden.Words(input)
		name, style := words[0], report.Style{}
		for _, word := range words[1:] {
			if word == "-v" {
				style.Verbose = true
				continue
			}
			var err error
			if style.Format, err = report.ParseTemplate(word); err != nil {
				return "error: " + err.Error()
			}
		}
		var out bytes.Buffer
		if err := run(t.Context(), control, name, style, &out); err != nil {
			return "error: " + err.Error()
		}
		return tidied(out.String())
	})
}

func run(ctx context.Context, control controlapi.ControlClient, name string, style report.Style, out *bytes.Buffer) error {
	switch name {
	case "du":
		return report.DiskUsage(ctx, control, nil, style, out)
	case "du-filtered":
		return report.DiskUsage(ctx, control, []string{"type==x"}, style, out)
	case "prune":
		return report.Prune(ctx, control, &controlapi.PruneRequest{}, style, out)
	case "workers":
		return report.Workers(ctx, control, nil, style, out)
	case "info":
		return report.Info(ctx, control, style.Format, out)
	case "histories":
		return report.Histories(ctx, control, style.Format, out)
	case "list":
		return report.List(ctx, control, nil, style.Format, out)
	case "monitor":
		return report.Monitor(ctx, control, &controlapi.BuildHistoryRequest{}, out)
	}
	record, err := report.Record(ctx, control, strings.TrimPrefix(name, "inspect-"))
	if err != nil {
		return err
	}
	return report.Inspect(record, style.Format, out)
}

var columns = regexp.MustCompile(`[ ]*\t+`)

// tidied makes an output fit for a golden file: without the zone and the age of times,
// the width of columns, spaces at the end and empty lines.
func tidied(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\n")
		for _, seconds := range []int64{0, 1, 2, 10, 12, 15, 16, 20, 21} {
			at := time.Unix(seconds, 0)
			for _, written := range []time.Time{at.Local(), at.UTC()} {
				line = strings.ReplaceAll(line, written.Format(time.RFC3339), at.UTC().Format(time.TimeOnly))
			}
		}
		if i := strings.Index(line, " days ago"); i >= 0 {
			start := strings.LastIndexAny(line[:i], "\t ")
			line = line[:start+1] + "N" + line[i:]
		}
		line = columns.ReplaceAllString(line, "\t")
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

func TestForgettingLeavesWhatIsPinned(t *testing.T) {
	t.Parallel()
	d, control := daemon(t)
	var out bytes.Buffer
	if err := report.PruneHistories(t.Context(), control, nil, &out); err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, request := range d.Updated {
		if request.Delete {
			refs = append(refs, request.Ref)
		}
	}
	if got := strings.Join(refs, " "); got != "new ended" {
		t.Errorf("forgot %s", got)
	}
	if !strings.Contains(out.String(), "new") || strings.Contains(out.String(), "old") {
		t.Errorf("printed:\n%s", out.String())
	}
}
