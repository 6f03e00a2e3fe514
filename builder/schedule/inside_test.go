package schedule

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
)

// TestCircle: steps that make definitions with each other in them fail, in one
// build and in builds that wait for each other, whichever comes first.
func TestCircle(t *testing.T) {
	t.Parallel()
	for name, starts := range map[string][]string{
		"one build":            {"a"},
		"two at the same time": {"a", "b"},
		"three":                {"a", "b", "c"},
		"two of the same":      {"a", "a", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHandmade()
				steps := map[string]int{}
				for _, name := range []string{"a", "b", "c"} {
					steps[name] = h.add(modelStep{name: name, slow: time.Second}, false)
				}
				for name, inner := range map[string]string{"a": "b", "b": "c", "c": "a"} {
					h.does[h.steps[steps[name]].Digest].nested = h.graph(steps[inner], 0, nil)
				}
				var wg sync.WaitGroup
				for i, start := range starts {
					wg.Go(func() {
						id := start + string(rune('0'+i))
						b := h.s.NewBuild(BuildConfig{ID: id, Ops: modelOps{h.s, h.w, h.model, id}, Sink: event.Discard, Sessions: func() []string { return nil }})
						defer b.Close()
						_, err := b.Result(context.Background(), h.graph(steps[start], 0, nil))
						if err == nil || !strings.Contains(err.Error(), "is needed for a definition that it waits for") {
							t.Errorf("%s: %v", id, err)
						}
					})
				}
				wg.Wait()
				h.s.Close()
				for _, err := range h.w.end() {
					t.Error(err)
				}
			})
		})
	}
}

// TestSpared: what was begun ahead of need, and turns out not to be needed, is
// stopped and no failure; but not if another graph of the build needs it.
func TestSpared(t *testing.T) {
	t.Parallel()
	for name, needed := range map[string]bool{"by nobody": false, "by another graph": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testSpared(t, needed) })
		})
	}
}

func testSpared(t *testing.T, needed bool) {
	h := newHandmade()
	first := h.add(modelStep{name: "first", source: 1, slow: time.Second}, false)
	made := h.add(modelStep{name: "made", slow: time.Second}, true, first)
	long := h.add(modelStep{name: "long", source: 2, slow: time.Hour}, false)
	user := h.add(modelStep{name: "user"}, true, made, long)
	top := h.add(modelStep{name: "top"}, true, user)
	h.build(t, "1", nil, top)
	h.vanish("first")
	h.vanish("long")
	n := h.does[h.steps[made].Digest].value([]int{h.does[h.steps[first].Digest].value(nil)})
	maps.DeleteFunc(h.w.keys, func(key cache.Key, id cache.ID) bool { // only its content leads to "made" now
		r := h.w.records[id]
		return r == nil || r[0].(*value).n == n && string(key) != string(id)
	})

	sink := newWatch(h.w, "2")
	b := h.s.NewBuild(BuildConfig{ID: "2", Ops: modelOps{h.s, h.w, h.model, "2"}, Sink: sink, Sessions: func() []string { return nil }})
	begun := time.Now()
	var other sync.WaitGroup
	if needed {
		other.Go(func() {
			if _, err := b.Result(context.Background(), h.graph(long, 0, nil)); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := b.Result(t.Context(), h.graph(top, 0, nil)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("the build took %v", took)
	}
	other.Wait()
	b.Close()
	expect(t, "the second", h.ran("2"), "first", "long")
	sink.end(true)
	v, logs := sink.vertices[h.steps[long].Digest], strings.Join(sink.logs[h.steps[long].Digest], "")
	if strings.Contains(logs, spared) == needed {
		t.Errorf("the step shows %q", logs)
	}
	if took := v.Completed.Sub(begun); needed != (took >= time.Hour) {
		t.Errorf("the step took %v", took)
	}
	h.s.Close()
	for _, err := range h.w.end() {
		t.Error(err)
	}
}
