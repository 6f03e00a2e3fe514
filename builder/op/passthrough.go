package op

import (
	"context"
	"encoding/json"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// Passthrough hands some of its inputs on as they are, once all of them have
// been made.
type Passthrough struct{ step *graph.Step }

var _ schedule.Op = (*Passthrough)(nil)

// NewPassthrough makes the op of a passthrough step.
func NewPassthrough(step *graph.Step) *Passthrough { return &Passthrough{step} }

// Key implements schedule.Op. The digest is that of BuildKit's JSON, so that it
// agrees with remote caches.
func (p *Passthrough) Key(context.Context, schedule.Job) (schedule.Key, error) {
	dt, err := json.Marshal(struct {
		Type        string
		Passthrough *pb.PassthroughOp
	}{"buildkit.passthrough.v0", p.step.Op.GetPassthrough()})
	if err != nil {
		return schedule.Key{}, err
	}
	return schedule.Key{
		Digest: digest.FromBytes(dt),
		Parts:  []cache.Part{{Name: "passthrough", Value: p.step.Op.GetPassthrough().GetId()}},
		Inputs: make([]schedule.InputKey, len(p.step.Inputs)),
		Record: cache.Description{Kind: cache.Internal, Text: p.step.Meta.Name},
	}, nil
}

// Run implements schedule.Op. The results stay those of the inputs' records,
// which stay as long as this step's.
func (p *Passthrough) Run(_ context.Context, _ schedule.Job, inputs []schedule.Result) ([]schedule.Result, error) {
	var out []schedule.Result
	for _, i := range p.step.Op.GetPassthrough().GetOutputs() {
		out = append(out, inputs[i])
	}
	return out, nil
}
