package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/event/usage"
	digest "github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkresource "go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

var a, b, c = digest.FromString("a"), digest.FromString("b"), digest.FromString("c")

// sink counts what is passed on.
type sink int

func (s *sink) Emit(event.Event) { *s++ }

func at(seconds int64) *time.Time {
	t := time.Unix(seconds, 0)
	return &t
}

func TestSpans(t *testing.T) {
	t.Parallel()
	var next sink
	r := New(t.Context(), &next)
	for _, e := range []event.Event{
		&event.Vertex{Digest: a, Name: "queued"},
		&event.Vertex{Digest: b, Name: "step"},
		&event.Vertex{Digest: b, Name: "step", Started: at(10)},
		&event.Status{Vertex: b, ID: "item", Started: at(11), Current: 1},
		&event.Status{Vertex: b, ID: "item", Started: at(11), Completed: at(12)},
		&event.Status{Vertex: b, ID: "not begun"},
		&event.Status{Vertex: a, ID: "of a step that did not begin", Started: at(11)},
		&event.Log{Vertex: b, Data: []byte("x")},
		&event.Vertex{Digest: b, Name: "step\xff", Started: at(10), Completed: at(20), Cached: true},
		&event.Vertex{Digest: c, Name: "failed", Started: at(15), Completed: at(16), Error: "no"},
		&event.Vertex{Digest: digest.FromString("d"), Name: "cut off", Started: at(15)},
	} {
		r.Emit(e)
	}
	if next != 11 {
		t.Errorf("%d events were passed on", next)
	}
	spans := r.Spans("build", errors.New("why"), map[string]string{"ref": "r"})
	byName := map[string]Span{}
	for _, s := range spans {
		byName[s.Name] = s
		if s.SpanContext.TraceID() != spans[0].SpanContext.TraceID() || !s.SpanContext.IsValid() {
			t.Errorf("%s: context %v", s.Name, s.SpanContext)
		}
	}
	if len(spans) != 5 || len(byName) != 5 {
		t.Fatalf("spans %v", spans)
	}
	build, step := byName["build"], byName["step\uFFFD"]
	if build.Parent.IsValid() || build.Status != (Status{codes.Error, "why"}) || build.StartTime.IsZero() || len(build.Attributes) != 1 {
		t.Errorf("build: %+v", build)
	}
	if step.Parent.SpanID() != build.SpanContext.SpanID() || !step.StartTime.Equal(*at(10)) || !step.EndTime.Equal(*at(20)) ||
		step.Status.Code != codes.Unset || len(step.Attributes) != 2 || step.Attributes[0].Value.AsString() != b.String() {
		t.Errorf("step: %+v", step)
	}
	if i := byName["item"]; i.Parent.SpanID() != step.SpanContext.SpanID() || !i.EndTime.Equal(*at(12)) {
		t.Errorf("item: %+v", i)
	}
	if f := byName["failed"]; f.Status != (Status{codes.Error, "no"}) {
		t.Errorf("failed: %+v", f)
	}
	if f := byName["cut off"]; f.Status.Description != context.Canceled.Error() || !f.EndTime.Equal(build.EndTime) {
		t.Errorf("cut off: %+v", f)
	}
}

func TestParent(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	call := func(pairs ...string) context.Context {
		return metadata.NewIncomingContext(t.Context(), metadata.Pairs(pairs...))
	}
	r := New(call("traceparent", "00-"+id+"-b7ad6b7169203331-01", "tracestate", "k=v"), event.Discard)
	build := r.Spans("build", nil, nil)[0]
	if build.SpanContext.TraceID().String() != id || build.Parent.SpanID().String() != "b7ad6b7169203331" || build.SpanContext.TraceState().Get("k") != "v" {
		t.Errorf("%+v", build)
	}
	for _, bad := range []string{"", "nonsense", "00-" + id, "00-00000000000000000000000000000000-b7ad6b7169203331-01"} {
		build := New(call("traceparent", bad), event.Discard).Spans("build", nil, nil)[0]
		if build.Parent.IsValid() || !build.SpanContext.IsValid() {
			t.Errorf("%q: %+v", bad, build)
		}
	}
}

func TestItemsAreBounded(t *testing.T) {
	t.Parallel()
	r := New(t.Context(), event.Discard)
	r.Emit(&event.Vertex{Digest: a, Started: at(1)})
	for i := range maxItems + 10 {
		r.Emit(&event.Status{Vertex: a, ID: strconv.Itoa(i), Started: at(1)})
	}
	if n := len(r.Spans("build", nil, nil)); n != maxItems+2 {
		t.Errorf("%d spans", n)
	}
}

// TestFormat compares with what the stubs of OpenTelemetry's SDK are written as.
func TestFormat(t *testing.T) {
	t.Parallel()
	var next sink
	r := New(t.Context(), &next)
	r.Emit(&event.Vertex{Digest: a, Name: "step", Started: at(1), Completed: at(2), Error: "x"})
	spans := r.Spans("build", nil, nil)
	data, err := Encode(spans)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	for _, s := range spans {
		stub, err := json.Marshal(tracetest.SpanStub{
			Name: s.Name, SpanContext: s.SpanContext, Parent: s.Parent, SpanKind: oteltrace.SpanKindInternal,
			StartTime: s.StartTime, EndTime: s.EndTime, Attributes: s.Attributes,
			Status:   sdktrace.Status{Code: s.Status.Code, Description: s.Status.Description},
			Resource: sdkresource.NewSchemaless(service...),
		})
		if err != nil {
			t.Fatal(err)
		}
		var got, want map[string]any
		if err := errors.Join(dec.Decode(&got), json.Unmarshal(stub, &want)); err != nil {
			t.Fatal(err)
		}
		delete(got, "InstrumentationLibrary")
		for k, v := range got {
			if !reflect.DeepEqual(v, want[k]) {
				t.Errorf("%s of %s: got %v, want %v", k, s.Name, v, want[k])
			}
		}
	}
	if dec.More() {
		t.Error("there is more than the spans")
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	var next sink
	r := New(t.Context(), &next)
	nanos := func(n uint64) usage.Sample {
		return usage.Sample{Time: time.Unix(1, 0), CPU: &usage.CPU{UsageNanos: &n}}
	}
	for _, e := range []event.Event{
		&event.Vertex{Digest: a, Name: "idle", Started: at(1), Completed: at(2)},
		&event.Vertex{Digest: b, Name: "busy", Started: at(1)},
		&event.Usage{Vertex: b, Sample: nanos(5)},
		&event.Usage{Vertex: b, Sample: nanos(7)},
	} {
		r.Emit(e)
	}
	for _, s := range r.Spans("build", nil, nil) {
		want := s.Name == "busy"
		if got := slices.Contains(s.Attributes, attribute.String("usage.cpu.nanos", "7")); got != want {
			t.Errorf("%s: attributes %v", s.Name, s.Attributes)
		}
	}
	got, err := EncodeUsage(r.Usage())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"predicateType":"` + UsagePredicate, `"name":"busy"`, `"resourceUsage":{"samples":[{`, `"usageNanos":5`, `"usageNanos":7`} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if strings.Contains(string(got), "idle") {
		t.Errorf("a step without processes is in %s", got)
	}
}
