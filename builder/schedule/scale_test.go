package schedule

import (
	"fmt"
	"testing"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// chain is a graph of n steps, each on the one before and on one source.
func chain(n int) *model {
	m := &model{steps: map[*graph.Step]*modelStep{}, graph: &graph.Graph{}}
	for i := range n {
		s := &graph.Step{Op: &pb.Op{}, Outputs: 1, Platform: &pb.Platform{}, Digest: digest.FromString(fmt.Sprint(i))}
		ms := &modelStep{name: fmt.Sprint("op", i)}
		if i > 0 {
			s.Inputs = []graph.Output{{Step: m.graph.Steps[i-1]}, {Step: m.graph.Steps[0]}}
			ms.content = []bool{false, true}
		}
		m.steps[s] = ms
		m.graph.Steps = append(m.graph.Steps, s)
	}
	m.graph.Result = graph.Output{Step: m.graph.Steps[n-1]}
	return m
}

func BenchmarkScale(b *testing.B) {
	for _, n := range []int{1000, 10000, 100000} {
		for _, state := range []string{"first", "cached"} {
			b.Run(fmt.Sprintf("steps=%d/%s", n, state), func(b *testing.B) {
				b.ReportAllocs()
				m := chain(n)
				w := newWorld()
				for i := range b.N {
					if state == "first" {
						w = newWorld()
					}
					s := New(w)
					build := s.NewBuild(BuildConfig{ID: fmt.Sprint(i), Ops: modelOps{m}, Sessions: func() []string { return nil }, Sink: event.Discard})
					if _, err := build.Result(b.Context(), m.graph); err != nil {
						b.Fatal(err)
					}
					build.Close()
					s.Close()
				}
			})
		}
	}
}
