package trace

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	oteltrace "go.opentelemetry.io/otel/trace"
)

// MediaType is that of [Encode].
const MediaType = "application/vnd.buildkit.otlp.json.v0"

// Span is a part of a trace as the format has it: the fields are named as in
// the stubs of spans of OpenTelemetry's SDK for Go.
type Span struct {
	Name                   string
	SpanContext            oteltrace.SpanContext
	Parent                 oteltrace.SpanContext
	SpanKind               oteltrace.SpanKind
	StartTime              time.Time
	EndTime                time.Time
	Attributes             []attribute.KeyValue
	Status                 Status
	Resource               []attribute.KeyValue
	InstrumentationLibrary Scope
}

// Status says how what a span is about has ended.
type Status struct {
	Code        codes.Code
	Description string
}

// Scope names what made a span.
type Scope struct{ Name, Version, SchemaURL string }

const scope = "github.com/kiln-build/kiln"

var service = []attribute.KeyValue{attribute.String("service.name", "kilnd")}

func (s *Span) set(key, value string) {
	s.Attributes = append(s.Attributes, attribute.String(key, text(value)))
}

func (s *Span) fail(reason string) { s.Status = Status{codes.Error, text(reason)} }

// text makes what comes from anywhere fit for a string of the format.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// Encode writes spans as JSON, one after the other.
func Encode(spans []Span) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, s := range spans {
		if err := enc.Encode(s); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
