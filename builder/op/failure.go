package op

import (
	"context"

	"github.com/kiln-build/kiln/builder/layer"
	"github.com/moby/buildkit/solver/errdefs"
)

// Failure is a run that failed, with the trees in which the step's author can
// look for the reason. Those that the run made belong to the lease of its
// record: who gives that up has to keep them first, see Trees.
type Failure struct {
	Err error
	// Action is the one that failed, of a file step; nil for other steps.
	Action *errdefs.Solve_File
	// Inputs are what the run had, and Mounts how it left them; nil where there
	// is nothing. Of an exec step, both have one element for each of its mounts;
	// of a file step, Inputs is parallel to its inputs and Mounts to its actions.
	Inputs, Mounts []*layer.Layer
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Trees are all trees of the failure, each once.
func (f *Failure) Trees() []*layer.Layer {
	var trees []*layer.Layer
	seen := map[*layer.Layer]bool{nil: true}
	for _, list := range [][]*layer.Layer{f.Inputs, f.Mounts} {
		for _, l := range list {
			if !seen[l] {
				seen[l] = true
				trees = append(trees, l)
			}
		}
	}
	return trees
}

// salvage makes a layer of what a failed run left in a workspace. It gives nil
// where that can't be done, or nobody is there any more to look at it.
func salvage(ctx context.Context, w *layer.Workspace) *layer.Layer {
	if ctx.Err() != nil {
		return nil
	}
	l, err := w.Commit(ctx, layer.Meta{Description: "left by a failed step"})
	if err != nil {
		return nil
	}
	return l
}
