package schedule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// handmade is a model of named steps.
type handmade struct {
	*model
	w *world
	s *Scheduler
}

func newHandmade() *handmade {
	w := newWorld()
	return &handmade{&model{does: map[digest.Digest]*modelStep{}}, w, New(w)}
}

// add adds a step on earlier ones, all of which count by content if content is
// set.
func (h *handmade) add(does modelStep, content bool, inputs ...int) int {
	s := &graph.Step{Op: &pb.Op{}, Outputs: 1, Platform: &pb.Platform{}, Digest: digest.FromString(does.name)}
	s.Meta.Name = does.name
	for _, i := range inputs {
		s.Inputs = append(s.Inputs, graph.Output{Step: h.steps[i]})
		does.content = append(does.content, content)
		does.selector = append(does.selector, 0)
	}
	h.does[s.Digest] = &does
	h.steps = append(h.steps, s)
	return len(h.steps) - 1
}

// build makes the steps one after the other in one build, and gives the names
// of those that were run.
func (h *handmade) build(t *testing.T, id string, fresh []string, steps ...int) []string {
	t.Helper()
	b := h.s.NewBuild(BuildConfig{ID: id, Ops: modelOps{h.s, h.w, h.model, id}, Sink: event.Discard, Sessions: func() []string { return nil }})
	defer b.Close()
	ignore := map[digest.Digest]bool{}
	for _, name := range fresh {
		ignore[digest.FromString(name)] = true
	}
	for _, i := range steps {
		if _, err := b.Result(t.Context(), h.graph(i, 0, ignore)); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
	}
	return h.ran(id)
}

// ran gives the names of the steps that were run for a build.
func (h *handmade) ran(id string) []string {
	var ran []string
	for d, n := range h.w.runs[id] {
		for range n {
			ran = append(ran, h.does[d].name)
		}
	}
	slices.Sort(ran)
	return ran
}

// result makes a step in a build of its own.
func (h *handmade) result(t *testing.T, id string, step int) *value {
	t.Helper()
	b := h.s.NewBuild(BuildConfig{ID: id, Ops: modelOps{h.s, h.w, h.model, id}, Sink: event.Discard, Sessions: func() []string { return nil }})
	defer b.Close()
	r, err := b.Result(context.Background(), h.graph(step, 0, nil))
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return r.(*value)
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s ran %q, want %q", what, got, want)
	}
}

// TestIgnoreCache: a step that is to ignore the cache runs once in a build, and
// what it makes is what later builds find. What stands on it is looked up anew:
// what counts by its content is found, what counts by what it is runs.
func TestIgnoreCache(t *testing.T) {
	t.Parallel()
	h := newHandmade()
	source := h.add(modelStep{name: "source", source: 1}, false)
	step := h.add(modelStep{name: "step"}, true, source)
	byContent := h.add(modelStep{name: "by content"}, true, step)
	byName := h.add(modelStep{name: "by name"}, false, step)

	expect(t, "the first build", h.build(t, "1", nil, byContent, byName), "by content", "by name", "source", "step")
	expect(t, "the same again", h.build(t, "2", nil, byContent, byName))
	expect(t, "a fresh step", h.build(t, "3", []string{"step"}, byContent, byName), "by name", "step")
	expect(t, "the build after it", h.build(t, "4", nil, byContent, byName))
	for id, v := range map[string]*value{"a build": h.result(t, "4a", step), "one that needs it by name": h.result(t, "4b", byName)} {
		for len(v.inputs) > 0 && v.n != h.does[h.steps[step].Digest].value([]int{v.inputs[0].n}) {
			v = v.inputs[0]
		}
		if v.build != "3" {
			t.Errorf("%s has the result of build %s, want the fresh one of 3", id, v.build)
		}
	}
	expect(t, "three plans", h.build(t, "5", []string{"step"}, step, step, byName), "by name", "step")
	expect(t, "a fresh source", h.build(t, "6", []string{"source"}, byName, byName), "source")
	expect(t, "the build after that", h.build(t, "7", nil, byName, byContent))
	expect(t, "a fresh step in one plan", h.build(t, "8", []string{"step"}, byContent), "step")
	if v := h.result(t, "8a", step); v.build != "8" {
		t.Errorf("a build after it has the result of build %s, want the fresh one of 8", v.build)
	}
	h.s.Close()
	for _, err := range h.w.end() {
		t.Error(err)
	}
}

// TestBound: what was found by its content is found by what it is from then on,
// though the inputs have vanished.
func TestBound(t *testing.T) {
	t.Parallel()
	h := newHandmade()
	one := h.add(modelStep{name: "one", source: 1}, false)
	same := h.add(modelStep{name: "same", source: 100}, false)
	user := h.add(modelStep{name: "user"}, true, one)
	other := h.add(modelStep{name: "other"}, true, same)
	h.does[h.steps[other].Digest] = h.does[h.steps[user].Digest] // the same step, on another source
	for does, like := h.does[h.steps[same].Digest], h.does[h.steps[one].Digest]; does.value(nil)%3 != like.value(nil)%3; {
		does.source++
	}

	expect(t, "the first", h.build(t, "1", nil, user), "one", "user")
	h.vanish("one")
	expect(t, "the same, without its input", h.build(t, "2", nil, user))
	expect(t, "one with equal content", h.build(t, "3", nil, other), "same")
	h.vanish("same")
	expect(t, "that without its input", h.build(t, "4", nil, other))
}

// TestLost: a step whose record is there, but not what it needs, runs and says so.
func TestLost(t *testing.T) {
	t.Parallel()
	h := newHandmade()
	source := h.add(modelStep{name: "source", source: 1}, false)
	step := h.add(modelStep{name: "step"}, false, source)
	for i, want := range []map[string]bool{{"source": false, "step": false}, {"source": true}} {
		id := fmt.Sprint(i)
		lost := map[string]bool{}
		b := h.s.NewBuild(BuildConfig{
			ID: id, Ops: modelOps{h.s, h.w, h.model, id}, Sink: event.Discard, Sessions: func() []string { return nil },
			Ran: func(r Ran) { lost[r.Step.Meta.Name] = r.Lost },
		})
		for _, wanted := range []int{source, step} {
			if _, err := b.Result(t.Context(), h.graph(wanted, 0, nil)); err != nil {
				t.Fatal(err)
			}
		}
		b.Close()
		if !maps.Equal(lost, want) {
			t.Errorf("build %d ran %v, want %v", i, lost, want)
		}
		h.vanish("source")
	}
}

// vanish removes what a source has made, and leaves its keys.
func (h *handmade) vanish(name string) {
	n := h.does[digest.FromString(name)].value(nil)
	for id, r := range h.w.records {
		if r[0].(*value).n == n {
			delete(h.w.records, id)
		}
	}
}

// TestFailureEndsTheRest: when a step fails, what runs beside it for nobody else
// is ended at once, and what another build waits for goes on.
func TestFailureEndsTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHandmade()
		mine := h.add(modelStep{name: "mine", slow: time.Hour}, false)
		ours := h.add(modelStep{name: "ours", slow: time.Hour}, false)
		fails := h.add(modelStep{name: "fails", slow: time.Second, fails: true}, false)
		all := h.add(modelStep{name: "all"}, false, mine, ours, fails)
		run := func(id string, step int) (time.Duration, error) {
			b := h.s.NewBuild(BuildConfig{ID: id, Ops: modelOps{h.s, h.w, h.model, id}, Sink: event.Discard, Sessions: func() []string { return nil }})
			defer b.Close()
			begun := time.Now()
			_, err := b.Result(context.Background(), h.graph(step, 0, nil))
			return time.Since(begun), err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if took, err := run("stays", ours); err != nil || took > time.Hour {
				t.Errorf("the build that stays: %v after %v", err, took)
			}
		}()
		if took, err := run("fails", all); !errors.Is(err, errFails) || took > 2*time.Second {
			t.Errorf("the build that fails: %v after %v", err, took)
		}
		time.Sleep(time.Second)
		h.w.mu.Lock()
		n := len(h.w.begun)
		h.w.mu.Unlock()
		if n != 1 {
			t.Errorf("%d steps are running, want the one that is waited for", n)
		}
		<-done
		h.s.Close()
	})
}

// TestParallel: steps that are copied into one tree, one after the other, run at
// the same time, although what the later copies are depends on what the first
// step makes.
func TestParallel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHandmade()
		base := h.add(modelStep{name: "base", source: 1}, false)
		tree := base
		for i := range 16 {
			stage := h.add(modelStep{name: fmt.Sprint("stage", i), slow: time.Second}, false, base)
			tree = h.add(modelStep{name: fmt.Sprint("copy", i)}, false, tree, stage)
			h.does[h.steps[tree].Digest].content[1] = true
		}
		begun := time.Now()
		h.result(t, "first", tree)
		if took := time.Since(begun); took >= 2*time.Second {
			t.Errorf("16 steps of a second took %v", took)
		}
		expect(t, "the same again", h.build(t, "again", nil, tree))
		h.s.Close()
	})
}
