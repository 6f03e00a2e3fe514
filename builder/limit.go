package builder

import (
	"context"

	"github.com/kiln-build/kiln/builder/schedule"
)

// fileSteps is how many file steps change trees at the same time. Each has mounts
// and, while the kernel works for it, a thread; more than this make nothing
// faster, and a graph may have thousands that could begin.
const fileSteps = 32

// limit lets so many ops run at the same time as it has room for; nil lets all.
type limit chan struct{}

func (l limit) wrap(op schedule.Op) schedule.Op {
	if l == nil {
		return op
	}
	return limited{op, l}
}

type limited struct {
	schedule.Op
	limit limit
}

// Run implements schedule.Op.
func (o limited) Run(ctx context.Context, job schedule.Job, inputs []schedule.Result) ([]schedule.Result, error) {
	select {
	case o.limit <- struct{}{}:
		defer func() { <-o.limit }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return o.Op.Run(ctx, job, inputs)
}
