package trace

import (
	"encoding/json"
	"strconv"

	"github.com/kiln-build/kiln/builder/event/usage"
	digest "github.com/opencontainers/go-digest"
)

// UsagePredicate is the type of the predicate that [EncodeUsage] makes.
const UsagePredicate = "https://kiln.build/usage/v0"

// StepUsage is what the processes of a step used. Its fields are named as in the
// steps of BuildKit's provenance.
type StepUsage struct {
	Digest digest.Digest `json:"digest"`
	Name   string        `json:"name"`
	Usage  Samples       `json:"resourceUsage"`
}

// Samples are in the order of time; the last one has the totals.
type Samples struct {
	Samples []usage.Sample `json:"samples"`
}

// Usage gives what was reported, in the order of the steps.
func (r *Recorder) Usage() []StepUsage {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []StepUsage
	for _, d := range r.order {
		if samples := r.usage[d]; len(samples) > 0 {
			all = append(all, StepUsage{Digest: d, Name: text(r.steps[d].Name), Usage: Samples{samples}})
		}
	}
	return all
}

// EncodeUsage writes usage as a statement of in-toto.
func EncodeUsage(steps []StepUsage) ([]byte, error) {
	type predicate struct {
		Steps []StepUsage `json:"steps"`
	}
	return json.Marshal(struct {
		Type          string     `json:"_type"`
		PredicateType string     `json:"predicateType"`
		Subject       []struct{} `json:"subject"`
		Predicate     predicate  `json:"predicate"`
	}{"https://in-toto.io/Statement/v0.1", UsagePredicate, []struct{}{}, predicate{steps}})
}

// used adds the totals to the span of a step.
func (s *Span) used(total usage.Sample) {
	add := func(key string, n *uint64) {
		if n != nil {
			s.set(key, strconv.FormatUint(*n, 10))
		}
	}
	if c := total.CPU; c != nil {
		add("usage.cpu.nanos", c.UsageNanos)
		add("usage.cpu.throttled.nanos", c.ThrottledNanos)
	}
	if m := total.Memory; m != nil {
		add("usage.memory.peak", m.Peak)
	}
	if io := total.IO; io != nil {
		add("usage.io.read", io.ReadBytes)
		add("usage.io.write", io.WriteBytes)
	}
	if n := total.Network; n != nil {
		s.set("usage.network.rx", strconv.FormatInt(n.RxBytes, 10))
		s.set("usage.network.tx", strconv.FormatInt(n.TxBytes, 10))
	}
}
