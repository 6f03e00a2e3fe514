package schedule

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// chain is a model of n steps, each on the one before and on one source.
func chain(n int) *model {
	m := &model{does: map[digest.Digest]*modelStep{}}
	for i := range n {
		s := &graph.Step{Op: &pb.Op{}, Outputs: 1, Platform: &pb.Platform{}, Digest: digest.FromString(fmt.Sprint(i))}
		does := &modelStep{name: fmt.Sprint("op", i)}
		if i > 0 {
			s.Inputs = []graph.Output{{Step: m.steps[i-1]}, {Step: m.steps[0]}}
			does.content, does.selector = []bool{false, true}, []int{0, 0}
		}
		m.does[s.Digest] = does
		m.steps = append(m.steps, s)
	}
	return m
}

func BenchmarkScale(b *testing.B) {
	for _, n := range []int{1000, 10000, 100000} {
		for _, state := range []string{"first", "cached"} {
			b.Run(fmt.Sprintf("steps=%d/%s", n, state), func(b *testing.B) {
				b.ReportAllocs()
				m := chain(n)
				g := m.graph(n-1, 0, nil)
				w := newWorld()
				build := func(id string) {
					s := New(w)
					cfg := BuildConfig{ID: id, Ops: modelOps{s, w, m, "bench"}, Sessions: func() []string { return nil }, Sink: event.Discard}
					build := s.NewBuild(cfg)
					if _, err := build.Result(b.Context(), g); err != nil {
						b.Fatal(err)
					}
					build.Close()
					s.Close()
				}
				build("before")
				for i := 0; b.Loop(); i++ {
					if state == "first" {
						w = newWorld()
					}
					build(fmt.Sprint(i))
				}
			})
		}
	}
}

// TestManySteps: however many steps could run, only so many are begun, and all
// come to run.
func TestManySteps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const steps = 3*maxJobs + 7
		h := newHandmade()
		var made []int
		for i := range steps {
			made = append(made, h.add(modelStep{name: fmt.Sprint("step", i), slow: time.Second}, false))
		}
		all := h.add(modelStep{name: "all"}, false, made...)
		b := h.s.NewBuild(BuildConfig{ID: "b", Ops: modelOps{h.s, h.w, h.model, "b"}, Sink: event.Discard, Sessions: func() []string { return nil }})
		go func() {
			time.Sleep(1500 * time.Millisecond)
			h.w.mu.Lock()
			defer h.w.mu.Unlock()
			if n := len(h.w.begun); n != maxJobs {
				t.Errorf("%d steps are running, want %d", n, maxJobs)
			}
		}()
		begun := time.Now()
		if _, err := b.Result(t.Context(), h.graph(all, 0, nil)); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took != 4*time.Second {
			t.Errorf("took %v", took)
		}
		b.Close()
		h.s.Close()
	})
}
