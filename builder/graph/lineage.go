package graph

import "github.com/moby/buildkit/solver/pb"

// Lineage gives the steps whose changes make up the tree of the result, the
// last one first: what a step changed, then what it changed it in, and so on.
// It ends at a source, or a step that makes a tree of several.
func (g *Graph) Lineage() []*Step {
	var line []*Step
	for o := g.Result; o.Step != nil; o = o.ground() {
		line = append(line, o.Step)
	}
	return line
}

// ground is the output on which the step made o. Its Step is nil where there
// is none, or more than one.
func (o Output) ground() Output {
	input := int64(-1)
	switch op := o.Step.Op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			if m.MountType == pb.MountType_BIND && m.Output == int64(o.Index) {
				input = m.Input
			}
		}
	case *pb.Op_File:
		n := int64(len(o.Step.Inputs))
		for i := len(op.File.Actions) - 1; i >= 0; i-- {
			if a := op.File.Actions[i]; a.Output == int64(o.Index) || input == n+int64(i) {
				input = a.Input
			}
		}
	}
	if input < 0 || input >= int64(len(o.Step.Inputs)) {
		return Output{}
	}
	return o.Step.Inputs[input]
}
