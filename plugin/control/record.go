package control

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/export/assemble"
	"github.com/kiln-build/kiln/plugin/history"
	"github.com/kiln-build/kiln/plugin/status"
	"github.com/kiln-build/kiln/plugin/trace"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/grpcerrors"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// errorType is the media type of a record's whole error. It is misspelled in
// the format.
const errorType = "application/vnd.googeapis.google.rpc.status+proto"

// attestationType is the media type of a statement about a build.
const attestationType = "application/vnd.in-toto+json"

// newRecord is the record of a build that begins.
func newRecord(req *controlapi.SolveRequest) *controlapi.BuildHistoryRecord {
	return &controlapi.BuildHistoryRecord{
		Ref:           req.Ref,
		Frontend:      req.Frontend,
		FrontendAttrs: req.FrontendAttrs,
		Exporters:     req.Exporters,
		CreatedAt:     timestamppb.Now(),
	}
}

// describe adds what a build did.
func describe(rec *controlapi.BuildHistoryRecord, sum status.Summary, resp *builder.Response) {
	rec.NumTotalSteps = int32(sum.Total)
	rec.NumCompletedSteps = int32(sum.Completed)
	rec.NumCachedSteps = int32(sum.Cached)
	rec.NumWarnings = int32(sum.Warnings)
	if resp == nil {
		return
	}
	rec.ExporterResponse = resp.Exporter
	if resp.Explanation != "" {
		rec.ExporterResponse = maps.Clone(resp.Exporter)
		if rec.ExporterResponse == nil {
			rec.ExporterResponse = map[string]string{}
		}
		rec.ExporterResponse[builder.ExplainAttr] = resp.Explanation
	}
	if len(resp.Descriptors) == 0 {
		return
	}
	rec.Result = &controlapi.BuildResultInfo{Results: map[int64]*controlapi.Descriptor{}}
	for _, id := range slices.Sorted(maps.Keys(resp.Descriptors)) {
		d := resp.Descriptors[id]
		made := &controlapi.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
		rec.Result.Results[int64(id)] = made
		if rec.Result.ResultDeprecated == nil {
			rec.Result.ResultDeprecated = made
		}
	}
}

// keepDocuments keeps what describes the images that were made, which may be
// gone before the record is.
func keepDocuments(b *history.Build, documents []assemble.Document) error {
	for _, d := range documents {
		if _, err := b.Blob(d.Desc.MediaType, d.Data); err != nil {
			return err
		}
	}
	return nil
}

// describeFailure adds why a build failed, if it did: in short to the record,
// with all details as a blob.
func describeFailure(ctx context.Context, rec *controlapi.BuildHistoryRecord, b *history.Build, failure error) error {
	if failure == nil {
		return nil
	}
	all := grpcstatus.Convert(grpcerrors.ToGRPC(ctx, failure)).Proto()
	if !b.Hidden() {
		data, err := proto.Marshal(all)
		if err != nil {
			return err
		}
		if rec.ExternalError, err = b.Blob(errorType, data); err != nil {
			return err
		}
	}
	all.Details = nil
	rec.Error = all
	return nil
}

// addTrace keeps a trace of the build, which has ended, with its record.
func addTrace(rec *controlapi.BuildHistoryRecord, n *run, failure error) error {
	spans := n.trace.Spans("build", failure, map[string]string{"ref": rec.Ref, "frontend": rec.Frontend})
	data, err := trace.Encode(spans)
	if err != nil {
		return fmt.Errorf("trace of the build: %w", err)
	}
	rec.Trace, err = n.build.Blob(trace.MediaType, data)
	return err
}

// addUsage keeps what the steps' processes have used with the record of a build
// that has ended.
func addUsage(rec *controlapi.BuildHistoryRecord, n *run) error {
	steps := n.trace.Usage()
	if len(steps) == 0 {
		return nil
	}
	data, err := trace.EncodeUsage(steps)
	if err != nil {
		return fmt.Errorf("usage of the build: %w", err)
	}
	blob, err := n.build.Blob(attestationType, data)
	if err != nil {
		return err
	}
	blob.Annotations = map[string]string{"in-toto.io/predicate-type": trace.UsagePredicate}
	if rec.Result == nil {
		rec.Result = &controlapi.BuildResultInfo{}
	}
	rec.Result.Attestations = append(rec.Result.Attestations, blob)
	return nil
}
