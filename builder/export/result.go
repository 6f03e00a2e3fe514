package export

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/export/assemble"
	"github.com/kiln-build/kiln/builder/layer"
)

// Result is what a build made: one tree, or one for each of several platforms.
type Result struct {
	// Refs are the trees by the frontend's IDs of the platforms. A result that
	// is no map is under "". A nil tree is empty.
	Refs map[string]*layer.Layer
	// Metadata is what the frontend says of the result, see [assemble].
	Metadata map[string][]byte
}

// part is the result for one platform.
type part struct {
	assemble.Platform
	tree *layer.Layer
}

// isMap tells a map of one platform from a single tree.
func (r Result) isMap() bool {
	_, single := r.Refs[""]
	return len(r.Refs) > 0 && !single
}

// parts are the platforms of the result in the frontend's order, at least one,
// and exactly one where the result is no map.
func (r Result) parts() ([]part, error) {
	bad := func(format string, args ...any) ([]part, error) {
		return nil, fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	if _, ok := r.Metadata[assemble.KeyPlatforms]; !ok && r.isMap() {
		return bad("unable to export multiple refs, missing platforms mapping")
	}
	platforms, err := assemble.Platforms(r.Metadata)
	if err != nil {
		return nil, err
	}
	if !r.isMap() && len(platforms) > 1 {
		return bad("cannot export multiple platforms without multi-platform enabled")
	}
	parts := make([]part, len(platforms))
	for i, p := range platforms {
		tree, ok := r.tree(p.ID)
		if !ok {
			return bad("failed to find ref for ID %s", p.ID)
		}
		parts[i] = part{Platform: p, tree: tree}
	}
	return parts, nil
}

// tree finds a platform's tree. The only one there is serves any platform.
func (r Result) tree(id string) (*layer.Layer, bool) {
	if !r.isMap() {
		return r.Refs[""], true
	}
	if len(r.Refs) == 1 {
		for _, l := range r.Refs {
			return l, true
		}
	}
	l, ok := r.Refs[id]
	return l, ok
}
