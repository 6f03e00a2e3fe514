package schedule

import (
	"fmt"
	"testing"

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
				for i := range b.N {
					if state == "first" {
						w = newWorld()
					}
					s := New(w)
					cfg := BuildConfig{ID: fmt.Sprint(i), Ops: modelOps{s, w, m, "bench"}, Sessions: func() []string { return nil }, Sink: event.Discard}
					build := s.NewBuild(cfg)
					if _, err := build.Result(b.Context(), g); err != nil {
						b.Fatal(err)
					}
					build.Close()
					s.Close()
				}
			})
		}
	}
}
