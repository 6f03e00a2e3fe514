package frontend

import (
	"errors"

	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/op"
	"github.com/kiln-build/kiln/builder/schedule"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"google.golang.org/protobuf/proto"
)

// maxFailedOp bounds the operation that an error tells of, in bytes: errors
// travel in headers.
const maxFailedOp = 512 << 10

// explain adds to the error of a failed step what a client needs to look into
// it (errdefs.SolveError): the operation, and ids of the trees that it had and
// has left, which containers can mount until the build ends.
func (b *Bridge) explain(err error) error {
	var failed *bkerrdefs.OpError
	if !errors.As(err, &failed) || proto.Size(failed.Op) > maxFailedOp {
		return err
	}
	var failure *op.Failure
	var content *schedule.ContentError
	switch {
	case errors.As(err, &content):
		l, _ := content.Result.(*layer.Layer)
		subject := &bkerrdefs.Solve_Cache{Cache: &bkerrdefs.ContentCache{Index: int64(content.Input)}}
		return bkerrdefs.WithSolveError(err, subject, b.failedTrees(l), nil)
	case errors.As(err, &failure):
		inputs, mounts := b.failedTrees(failure.Inputs...), b.failedTrees(failure.Mounts...)
		if failure.Action == nil {
			return bkerrdefs.WithSolveError(err, nil, inputs, mounts)
		}
		return bkerrdefs.WithSolveError(err, failure.Action, inputs, mounts)
	}
	return err
}

// failedTrees makes the trees known by ids; that of the empty tree is "".
func (b *Bridge) failedTrees(trees ...*layer.Layer) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := make([]string, len(trees))
	for i, l := range trees {
		if l != nil {
			ids[i] = l.Name
			b.failed[l.Name] = l
		}
	}
	return ids
}
