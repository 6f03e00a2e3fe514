package op

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/op/fileop"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// maxDefinition bounds a definition that a step has made, in bytes: as much as
// a message may have that brings one.
const maxDefinition = 16 << 20

// Solver makes the result of a definition for a step that runs. It is kept for
// as long as the record that ctx carries.
type Solver func(ctx context.Context, job schedule.Job, def *pb.Definition) (*layer.Layer, error)

// Build builds the definition that is in a file of its input.
type Build struct {
	layers *layer.Store
	step   *graph.Step
	solve  Solver
}

var _ schedule.Op = (*Build)(nil)

// NewBuild makes the op of a step with a build body.
func NewBuild(layers *layer.Store, step *graph.Step, solve Solver) *Build {
	return &Build{layers: layers, step: step, solve: solve}
}

// Key implements schedule.Op. The digest is that of BuildKit's JSON, so that it
// agrees with remote caches.
func (b *Build) Key(context.Context, schedule.Job) (schedule.Key, error) {
	dt, err := json.Marshal(struct {
		Type string
		Exec *pb.BuildOp
	}{"buildkit.build.v0", b.step.Op.GetBuild()})
	if err != nil {
		return schedule.Key{}, err
	}
	return schedule.Key{
		Digest: digest.FromBytes(dt),
		Parts:  []cache.Part{{Name: "definition", Value: b.file()}},
		Inputs: make([]schedule.InputKey, len(b.step.Inputs)),
		Record: cache.Description{Kind: cache.Regular, Text: b.step.Meta.Name},
	}, nil
}

// file has the definition.
func (b *Build) file() string {
	if name := b.step.Op.GetBuild().GetAttrs()[pb.AttrLLBDefinitionFilename]; name != "" {
		return name
	}
	return pb.LLBDefaultDefinitionFile
}

// Run implements schedule.Op.
func (b *Build) Run(ctx context.Context, job schedule.Job, inputs []schedule.Result) ([]schedule.Result, error) {
	o := b.step.Op.GetBuild()
	in := o.GetInputs()[pb.LLBDefinitionInput]
	if o.GetBuilder() != int64(pb.LLBBuilder) || in == nil {
		return nil, fmt.Errorf("a build step needs the builder %d and an input %s: %w", pb.LLBBuilder, pb.LLBDefinitionInput, errdefs.ErrInvalidArgument)
	}
	l, _ := inputs[in.Input].(*layer.Layer)
	def, err := b.read(ctx, l)
	if err != nil {
		return nil, fmt.Errorf("definition %s: %w", b.file(), err)
	}
	made, err := b.solve(ctx, job, def)
	if err != nil {
		return nil, err
	}
	return []schedule.Result{made}, nil
}

// read reads the definition.
func (b *Build) read(ctx context.Context, l *layer.Layer) (*pb.Definition, error) {
	dir, release, err := b.layers.Mount(ctx, l)
	if err != nil {
		return nil, err
	}
	defer release()
	t, err := fileop.Open(dir)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	dt, err := t.ReadFile(b.file(), maxDefinition)
	if err != nil {
		return nil, err
	}
	def := &pb.Definition{}
	if err := def.UnmarshalVT(dt); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return def, nil
}
