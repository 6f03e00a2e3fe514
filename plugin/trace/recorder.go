// Package trace makes a trace of a build out of what the build reports: a span
// for the build, one for each of its steps that did something, and below these
// one for each thing that the step was busy with.
package trace

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/event/usage"
	digest "github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/propagation"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// maxItems bounds how many things below steps are recorded.
const maxItems = 10_000

// Recorder passes the events of one build on and keeps what a trace of it has.
// It implements event.Sink.
type Recorder struct {
	next   event.Sink
	parent oteltrace.SpanContext
	start  time.Time

	mu    sync.Mutex
	steps map[digest.Digest]*event.Vertex
	order []digest.Digest // as they were first reported
	items map[item]*event.Status
	usage map[digest.Digest][]usage.Sample
}

type item struct {
	step digest.Digest
	id   string
}

// New begins to record a build that starts now. Its trace is part of that of
// the gRPC call that ctx is of, if that says that it has one.
func New(ctx context.Context, next event.Sink) *Recorder {
	return &Recorder{
		next: next, parent: parent(ctx), start: time.Now(),
		steps: map[digest.Digest]*event.Vertex{}, items: map[item]*event.Status{},
		usage: map[digest.Digest][]usage.Sample{},
	}
}

// parent is the span of the caller; it is not valid where there is none.
func parent(ctx context.Context) oteltrace.SpanContext {
	headers := propagation.MapCarrier{}
	md, _ := metadata.FromIncomingContext(ctx)
	for _, name := range []string{"traceparent", "tracestate"} {
		if v := md.Get(name); len(v) > 0 {
			headers[name] = v[0]
		}
	}
	ctx = propagation.TraceContext{}.Extract(context.WithoutCancel(ctx), headers)
	return oteltrace.SpanContextFromContext(ctx)
}

// Emit implements event.Sink.
func (r *Recorder) Emit(e event.Event) {
	r.keep(e)
	r.next.Emit(e)
}

func (r *Recorder) keep(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e := e.(type) {
	case *event.Vertex:
		if r.steps[e.Digest] == nil {
			r.order = append(r.order, e.Digest)
		}
		r.steps[e.Digest] = e
	case *event.Status:
		key := item{e.Vertex, e.ID}
		if e.Started != nil && (r.items[key] != nil || len(r.items) < maxItems) {
			r.items[key] = e
		}
	case *event.Usage:
		r.usage[e.Vertex] = append(r.usage[e.Vertex], e.Sample)
	}
}

// Spans gives the trace of the build, which ends now. name and attributes are
// those of the span of the build.
func (r *Recorder) Spans(name string, failure error, attributes map[string]string) []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := time.Now()
	build := r.span(r.parent, name, r.start, end)
	for k, v := range attributes {
		build.set(k, v)
	}
	if failure != nil {
		build.fail(failure.Error())
	}
	all := []Span{build}
	of := map[digest.Digest]oteltrace.SpanContext{}
	for _, d := range r.order {
		v := r.steps[d]
		if v.Started == nil {
			continue
		}
		step := r.span(build.SpanContext, v.Name, *v.Started, ended(v.Completed, end))
		step.set("vertex", d.String())
		if v.Cached {
			step.set("cached", "true")
		}
		if samples := r.usage[d]; len(samples) > 0 {
			step.used(samples[len(samples)-1])
		}
		switch {
		case v.Error != "":
			step.fail(v.Error)
		case v.Completed == nil:
			step.fail(context.Canceled.Error())
		}
		of[d] = step.SpanContext
		all = append(all, step)
	}
	for key, st := range r.items {
		if parent, ok := of[key.step]; ok {
			all = append(all, r.span(parent, key.id, *st.Started, ended(st.Completed, end)))
		}
	}
	return all
}

func ended(at *time.Time, end time.Time) time.Time {
	if at == nil {
		return end
	}
	return *at
}

// span makes a span with an id of its own.
func (r *Recorder) span(parent oteltrace.SpanContext, name string, start, end time.Time) Span {
	c := oteltrace.SpanContextConfig{TraceID: parent.TraceID(), TraceState: parent.TraceState(), TraceFlags: oteltrace.FlagsSampled}
	if !c.TraceID.IsValid() {
		rand.Read(c.TraceID[:])
	}
	rand.Read(c.SpanID[:])
	return Span{
		Name: text(name), SpanContext: oteltrace.NewSpanContext(c), Parent: parent, SpanKind: oteltrace.SpanKindInternal,
		StartTime: start, EndTime: end, Resource: service, InstrumentationLibrary: Scope{Name: scope},
	}
}
