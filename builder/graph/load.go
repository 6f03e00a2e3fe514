package graph

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxSteps bounds the size of one definition.
const maxSteps = 1 << 20

// Load makes a graph of an LLB definition. A step without a platform is for
// the given one. The definition must not be changed afterwards. All that is
// wrong with the definition is reported here, as errdefs.ErrInvalidArgument.
func Load(def *pb.Definition, platform ocispec.Platform) (*Graph, error) {
	return Edits{}.Load(context.Background(), def, platform)
}

// Load makes a graph as the function does, of the edited definition. An error of
// e.Source is returned as it is.
func (e Edits) Load(ctx context.Context, def *pb.Definition, platform ocispec.Platform) (*Graph, error) {
	l, last, err := open(def, platform)
	if err != nil {
		return nil, invalid(err)
	}
	if err := e.sources(ctx, l); err != nil {
		return nil, err
	}
	l.proxy = e.Proxy
	g, err := l.graph(last)
	return g, invalid(err)
}

func invalid(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("invalid LLB definition: %w: %w", err, errdefs.ErrInvalidArgument)
}

// open reads the operations, of which the last one is the result.
func open(def *pb.Definition, platform ocispec.Platform) (*loader, *pb.Op, error) {
	if def == nil || len(def.Def) == 0 {
		return nil, nil, errors.New("it is empty")
	}
	if len(def.Def) < 2 {
		return nil, nil, errors.New("it has no operation, only a result")
	}
	if len(def.Def) > maxSteps {
		return nil, nil, fmt.Errorf("it has %d operations, more than %d", len(def.Def), maxSteps)
	}
	l := &loader{
		def:      def,
		platform: normalize(&pb.Platform{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant, OSVersion: platform.OSVersion, OSFeatures: platform.OSFeatures}),
		ops:      make(map[digest.Digest]*operation, len(def.Def)),
		steps:    make(map[digest.Digest]*Step, len(def.Def)),
	}
	var last *pb.Op
	for i, dt := range def.Def {
		op := new(pb.Op)
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, nil, fmt.Errorf("operation %d cannot be read: %w", i, err)
		}
		l.ops[digest.FromBytes(dt)] = &operation{Op: op, bytes: dt}
		last = op
	}
	return l, last, nil
}

// loader builds the steps of one definition from its result downwards. Its maps are
// by the digests that the definition has.
type loader struct {
	def      *pb.Definition
	platform *pb.Platform
	proxy    bool
	ops      map[digest.Digest]*operation
	steps    map[digest.Digest]*Step
	order    []*Step
}

// operation is one of the definition. Its bytes are nil once it was changed.
type operation struct {
	*pb.Op
	bytes []byte
}

func (l *loader) graph(last *pb.Op) (*Graph, error) {
	if last.Op != nil || len(last.Inputs) != 1 || last.Inputs[0] == nil {
		return nil, errors.New("the last operation must be the result: no body and exactly one input")
	}
	if err := l.visit(digest.Digest(last.Inputs[0].Digest)); err != nil {
		return nil, err
	}
	result, err := l.output(last.Inputs[0])
	if err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	return &Graph{Steps: l.order, Result: result}, nil
}

// visit makes the step of a digest and all below it. It keeps its own stack,
// for graphs are deep.
func (l *loader) visit(root digest.Digest) error {
	open := map[digest.Digest]bool{}
	stack := []digest.Digest{root}
	for len(stack) > 0 {
		d := stack[len(stack)-1]
		if l.steps[d] != nil {
			stack = stack[:len(stack)-1]
			continue
		}
		op := l.ops[d]
		if op == nil {
			return fmt.Errorf("operation %q is used as an input but not in the definition", d)
		}
		if !open[d] {
			open[d] = true
			for i := len(op.Inputs) - 1; i >= 0; i-- {
				in := digest.Digest(op.Inputs[i].GetDigest())
				if open[in] && l.steps[in] == nil {
					return fmt.Errorf("operation %s depends on itself", d)
				}
				if l.steps[in] == nil {
					stack = append(stack, in)
				}
			}
			continue
		}
		stack = stack[:len(stack)-1]
		s, err := l.step(d, op)
		if err != nil {
			return fmt.Errorf("operation %s: %w", d, err)
		}
		l.steps[d] = s
		l.order = append(l.order, s)
	}
	return nil
}

func (l *loader) step(d digest.Digest, op *operation) (*Step, error) {
	outputs, err := check(op.Op)
	if err != nil {
		return nil, err
	}
	s := &Step{Digest: d, Op: op.Op, Outputs: outputs, Platform: l.platform, Proxied: l.proxy && hasNetwork(op.Op)}
	if op.Platform != nil {
		s.Platform = normalize(op.Platform)
	}
	for _, in := range op.Inputs {
		o, err := l.output(in)
		if err != nil {
			return nil, err
		}
		s.Inputs = append(s.Inputs, o)
		if now := string(o.Step.Digest); now != in.Digest {
			in.Digest, op.bytes = now, nil
		}
	}
	if s.Digest, err = op.digest(d, s.Proxied); err != nil {
		return nil, err
	}
	if err := l.describe(d, s); err != nil {
		return nil, err
	}
	return s, nil
}

func (l *loader) output(in *pb.Input) (Output, error) {
	s := l.steps[digest.Digest(in.GetDigest())]
	if s == nil {
		return Output{}, fmt.Errorf("input %q is not in the definition", in.GetDigest())
	}
	if i := in.GetIndex(); i < 0 || i >= int64(s.Outputs) {
		return Output{}, fmt.Errorf("input %s has no output %d", s.Digest, i)
	}
	return Output{Step: s, Index: int(in.GetIndex())}, nil
}

// describe adds what the definition says beside the op itself, which it calls d.
func (l *loader) describe(d digest.Digest, s *Step) error {
	m := l.def.Metadata[string(d)]
	for id := range m.GetCaps() {
		if err := supports(id); err != nil {
			return err
		}
	}
	s.Meta = Metadata{
		Name:        m.GetDescription()["llb.customname"],
		Description: m.GetDescription(),
		IgnoreCache: m.GetIgnoreCache(),
		Group:       m.GetProgressGroup(),
		Resources:   m.GetLinuxResources(),
	}
	if s.Meta.Name == "" {
		s.Meta.Name = name(s)
	}
	if e := m.GetExportCache(); e != nil {
		s.Meta.ExportCache = &e.Value
	}
	for _, loc := range l.def.GetSource().GetLocations()[string(d)].GetLocations() {
		i := int(loc.GetSourceIndex())
		if infos := l.def.Source.Infos; i >= 0 && i < len(infos) && infos[i] != nil {
			s.Locations = append(s.Locations, Location{Info: infos[i], Ranges: loc.GetRanges()})
		}
	}
	return nil
}

func normalize(p *pb.Platform) *pb.Platform {
	n := platforms.Normalize(ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
	return &pb.Platform{
		OS: n.OS, Architecture: n.Architecture, Variant: n.Variant,
		OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
	}
}

// OCIPlatform is the step's platform in the terms of image specifications.
func (s *Step) OCIPlatform() ocispec.Platform {
	p := s.Platform
	return ocispec.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
	}
}
