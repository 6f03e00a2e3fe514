package control

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/plugin/history"
	"github.com/kiln-build/kiln/plugin/status"
	"github.com/kiln-build/kiln/plugin/trace"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/grpcerrors"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Solve implements the Control service. It returns when the build has ended and
// is recorded.
func (s *Server) Solve(ctx context.Context, req *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	o, err := s.translate(req)
	if err != nil {
		return nil, err
	}
	n, err := s.begin(ctx, req, o.record)
	if err != nil {
		return nil, err
	}
	for _, w := range o.warnings {
		emitWarning(n.trace, w)
	}
	resp, err := s.build(ctx, o.request, n.trace)
	s.finish(ctx, n, o.record, resp, err)
	if err != nil {
		// What failed within the build says nothing about the call: only a
		// code that was given on purpose is its code.
		return nil, grpcerrors.WrapCode(err, grpcerrors.Code(err))
	}
	return &controlapi.SolveResponse{ExporterResponse: resp.Exporter}, nil
}

// begin makes a build known to those who ask for its status or listen to
// history.
func (s *Server) begin(ctx context.Context, req *controlapi.SolveRequest, rec *controlapi.BuildHistoryRecord) (*run, error) {
	if err := s.runs.reserve(req.Ref); err != nil {
		return nil, err
	}
	var b *history.Build
	var err error
	if req.Internal {
		b, err = s.cfg.History.BeginHidden()
	} else {
		b, err = s.cfg.History.Begin(rec)
	}
	if err != nil {
		s.runs.release(req.Ref)
		return nil, err
	}
	n := &run{ref: req.Ref, internal: req.Internal, build: b, stream: status.New(b.Log(), s.cfg.Limits)}
	n.trace = trace.New(ctx, n.stream)
	s.runs.begin(n)
	return n, nil
}

// build turns a panic into an error: it ends the build, never the daemon.
func (s *Server) build(ctx context.Context, req builder.Request, sink event.Sink) (_ *builder.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			log.G(ctx).Errorf("build %s: panic: %v\n%s", req.Ref, p, debug.Stack())
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return s.cfg.Builder.Build(ctx, req, sink)
}

// finish ends the build's status and records it. A build does not fail because
// it can't be recorded.
func (s *Server) finish(ctx context.Context, n *run, rec *controlapi.BuildHistoryRecord, resp *builder.Response, failure error) {
	if err := n.stream.Close(); err != nil {
		log.G(ctx).WithError(err).Warnf("build %s: its status is incomplete", n.ref)
	}
	rec.CompletedAt = timestamppb.Now()
	describe(rec, n.stream.Summary(), resp)
	err := describeFailure(ctx, rec, n.build, failure)
	if err == nil && !n.build.Hidden() {
		err = errors.Join(addTrace(rec, n, failure), addUsage(rec, n))
	}
	if err == nil && !n.build.Hidden() && resp != nil {
		err = keepDocuments(n.build, resp.Documents)
	}
	if err == nil && !n.build.Hidden() {
		err = n.build.Complete(rec, status.MediaType)
	}
	if err != nil {
		n.build.Discard()
		log.G(ctx).WithError(err).Warnf("build %s: it is not recorded", n.ref)
	}
	s.runs.end(n)
	if s.cfg.Ended != nil && !n.internal {
		s.cfg.Ended(rec)
	}
}

// warning is advice on the request, told as a step of the build.
type warning struct{ step, text string }

func emitWarning(sink event.Sink, w warning) {
	now := time.Now()
	id := digest.FromString(w.step + "\n" + w.text)
	sink.Emit(&event.Vertex{Digest: id, Name: w.step, Started: &now, Completed: &now})
	sink.Emit(&event.Warning{Vertex: id, Level: 1, Short: []byte(w.text)})
}
