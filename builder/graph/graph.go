// Package graph holds a build's steps as an immutable, acyclic graph, made from
// and written as LLB definitions. A graph is checked completely when it is
// loaded; nobody who holds one has to check it again.
package graph

import (
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// Graph is a set of steps and the output that is wanted of them.
type Graph struct {
	// Steps are all steps that Result needs, each after its inputs.
	Steps []*Step
	// Result is what the graph is for. Its Step is nil for the empty tree.
	Result Output
}

// Step is one operation on the outputs of other steps. Neither it nor what it
// points to may be changed.
type Step struct {
	// Digest is that of the op's bytes, with a mark if Proxied; it is the vertex
	// digest on the wire.
	Digest digest.Digest
	Op     *pb.Op
	Inputs []Output
	// Outputs is the number of outputs that the step has, at least 1.
	Outputs int
	// Platform is the normalised platform the step is for; never nil.
	Platform *pb.Platform
	// Proxied: the step's process reaches the network of its mode through a proxy.
	Proxied bool
	Meta    Metadata
	// Locations say where the step comes from in its author's files.
	Locations []Location
}

// Output is one output of a step.
type Output struct {
	Step  *Step
	Index int
}

// Metadata is what is said about a step and does not change what it is.
type Metadata struct {
	// Name is for display.
	Name string
	// Description is free-form.
	Description map[string]string
	// IgnoreCache: the step runs even if its result is known.
	IgnoreCache bool
	// ExportCache overrides whether a cache export has the step; nil: default.
	ExportCache *bool
	Group       *pb.ProgressGroup
	Resources   *pb.LinuxResources
}

// Location is a place in a source file; Info is shared by all steps from it.
type Location struct {
	Info   *pb.SourceInfo
	Ranges []*pb.Range
}
