package builder

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/layer/checksum"
	"github.com/kiln-build/kiln/builder/schedule"
)

// ExplainAttr asks for an explanation, with the files that have changed, and is the
// key under which the exporters' response has it then, an [Explanation] as JSON.
const ExplainAttr = "kiln.explain"

// The limits of an explanation.
const (
	explainedSteps   = 200
	explainedChanges = 20
	explainedFiles   = 20
	explainedText    = 200 // bytes of a value
)

// Explanation says why steps ran that could have been taken from the cache.
type Explanation struct {
	Steps []StepExplanation `json:"steps"`
	// More is how many steps ran beside.
	More int `json:"more,omitempty"`
}

// StepExplanation says why one step ran.
type StepExplanation struct {
	Name   string `json:"name"`
	Vertex string `json:"vertex"`
	Why    string `json:"why"`
	// Since is when the step ran that this one is compared with.
	Since   *time.Time          `json:"since,omitempty"`
	Changes []ChangeExplanation `json:"changes,omitempty"`
	More    int                 `json:"more,omitempty"`
}

// Why a step ran.
const (
	whyNew     = "new"     // nothing like it ran before
	whyFresh   = "fresh"   // it was to ignore the cache
	whyLost    = "lost"    // what it made before is not there any more
	whyChanged = "changed" // see the changes
)

// ChangeExplanation is one thing that is not as it was.
type ChangeExplanation struct {
	// What is the name of a part of the step, or "input", "content" or "other".
	What string `json:"what"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
	// Input is the name of the step whose result is meant, and Ran whether that
	// ran as well.
	Input string `json:"input,omitempty"`
	Ran   bool   `json:"ran,omitempty"`
	// Files are the files of the input that are different, as far as known.
	Files []checksum.Change `json:"files,omitempty"`
	More  int               `json:"more,omitempty"`
}

// explainer notes what a build runs.
type explainer struct {
	records *records
	layers  *layer.Store
	began   time.Time
	asked   bool // by the client; files are only compared then

	mu   sync.Mutex
	ran  []schedule.Ran
	more int // that ran beside
}

func (b *Builder) explainer(attrs map[string]string) *explainer {
	return &explainer{records: b.records, layers: b.layers, began: time.Now(), asked: attrs[ExplainAttr] == "1"}
}

// note takes the steps that ran, but for the directories of clients: those are
// looked at in every build.
func (e *explainer) note(r schedule.Ran) {
	if r.Record.Kind == cache.Local {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ran) == explainedSteps {
		e.more++
		return
	}
	e.ran = append(e.ran, r)
}

// add puts the explanation into the response.
func (e *explainer) add(ctx context.Context, resp *Response) {
	resp.Explanation = e.text(ctx)
	if e.asked {
		resp.Exporter[ExplainAttr] = resp.Explanation
	}
}

// text is the explanation, "" where it is not asked for and no step ran. It must be
// made before the build ends, which keeps what is compared. A build doesn't fail
// for it.
func (e *explainer) text(ctx context.Context) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ran) == 0 && !e.asked {
		return ""
	}
	before, err := e.records.Before(e.began)
	if err != nil {
		log.G(ctx).WithError(err).Warn("why steps ran can't be explained")
		return ""
	}
	dt, err := json.Marshal(e.explain(ctx, before))
	if err != nil {
		log.G(ctx).WithError(err).Warn("why steps ran can't be explained")
	}
	return string(dt)
}

func (e *explainer) explain(ctx context.Context, before []cache.Record) Explanation {
	slices.SortStableFunc(e.ran, func(a, b schedule.Ran) int { return a.Record.Created.Compare(b.Record.Created) })
	ran := map[cache.ID]bool{}
	for _, r := range e.ran {
		ran[r.Record.ID] = true
	}
	x := Explanation{Steps: []StepExplanation{}, More: e.more}
	for _, r := range e.ran {
		x.Steps = append(x.Steps, e.step(ctx, r, before, ran))
	}
	return x
}

func (e *explainer) step(ctx context.Context, r schedule.Ran, before []cache.Record, ran map[cache.ID]bool) StepExplanation {
	s := StepExplanation{Name: r.Step.Meta.Name, Vertex: r.Step.Digest.String(), Why: whyNew}
	if r.Step.Meta.IgnoreCache {
		s.Why = whyFresh
		return s
	}
	if r.Lost {
		s.Why = whyLost
		return s
	}
	old, found := cache.Nearest(r.Record, before)
	if !found {
		return s
	}
	s.Since = &old.Created
	changes := cache.Compare(r.Record, old)
	if len(changes) == 0 {
		s.Why = whyLost
		return s
	}
	s.Why = whyChanged
	s.More = max(0, len(changes)-explainedChanges)
	for _, d := range changes[:len(changes)-s.More] {
		s.Changes = append(s.Changes, e.change(ctx, r, old, d, ran))
	}
	return s
}

func (e *explainer) change(ctx context.Context, r schedule.Ran, old cache.Record, d cache.Difference, ran map[cache.ID]bool) ChangeExplanation {
	c := ChangeExplanation{What: d.What}
	if d.Input < 0 {
		c.Old, c.New = shorten(d.Old), shorten(d.New)
		return c
	}
	if d.Input < len(r.Step.Inputs) {
		c.Input = r.Step.Inputs[d.Input].Step.Meta.Name
		c.Ran = ran[r.Record.Inputs[d.Input].Record]
	}
	if d.What == cache.ContentChanged && e.asked {
		c.Files = e.files(ctx, old.Inputs[d.Input], r.Record.Inputs[d.Input], r.Key.Inputs[d.Input].Reads)
		c.More = max(0, len(c.Files)-explainedFiles)
		c.Files = c.Files[:len(c.Files)-c.More]
	}
	return c
}

// files are those in which two inputs differ, none where one of them is not
// there any more.
func (e *explainer) files(ctx context.Context, old, now cache.Input, paths []string) []checksum.Change {
	before, ok := e.layer(ctx, old)
	after, there := e.layer(ctx, now)
	if !ok || !there {
		return nil
	}
	changes, err := e.layers.Changes(ctx, before, after, paths)
	if err != nil {
		return nil
	}
	return changes
}

func (e *explainer) layer(ctx context.Context, in cache.Input) (*layer.Layer, bool) {
	results, err := e.records.Load(ctx, in.Record)
	if err != nil || in.Output >= len(results) {
		return nil, false
	}
	l, _ := results[in.Output].(*layer.Layer)
	return l, true
}

func shorten(s string) string {
	if len(s) <= explainedText {
		return s
	}
	return s[:explainedText] + "…"
}
