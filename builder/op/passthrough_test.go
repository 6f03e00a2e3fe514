package op

import (
	"testing"

	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
)

func passthrough(id string, outputs ...int64) *Passthrough {
	return NewPassthrough(&graph.Step{
		Op:     &pb.Op{Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{Id: id, Outputs: outputs}}},
		Inputs: make([]graph.Output, 3),
	})
}

func TestPassthrough(t *testing.T) {
	t.Parallel()
	a, c := &layer.Layer{Name: "a"}, &layer.Layer{Name: "c"}
	out, err := passthrough("x", 2, 1, 0, 2).Run(t.Context(), schedule.Job{}, []schedule.Result{a, nil, c})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 4 || out[0] != c || out[1] != nil || out[2] != a || out[3] != c {
		t.Errorf("results %v", out)
	}
}

func TestPassthroughKey(t *testing.T) {
	t.Parallel()
	key := func(p *Passthrough) schedule.Key {
		k, err := p.Key(t.Context(), schedule.Job{})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	one := key(passthrough("x", 0, 2))
	if len(one.Inputs) != 3 || one.Inputs[0].Content != nil {
		t.Errorf("inputs %v", one.Inputs)
	}
	if again := key(passthrough("x", 0, 2)); again.Digest != one.Digest {
		t.Error("the same step has two keys")
	}
	for _, other := range []*Passthrough{passthrough("y", 0, 2), passthrough("x", 2, 0)} {
		if key(other).Digest == one.Digest {
			t.Error("two steps have the same key")
		}
	}
}
