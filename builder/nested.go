package builder

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// maxNesting bounds how deep definitions may make definitions that are built.
const maxNesting = 32

// nested makes the result of a definition that the step has made, as a build of
// its own.
func (o ops) nested(step *graph.Step) func(context.Context, schedule.Job, *pb.Definition) (*layer.Layer, error) {
	o.outer = append(slices.Clip(o.outer), step.Digest)
	return func(ctx context.Context, job schedule.Job, def *pb.Definition) (*layer.Layer, error) {
		if len(o.outer) > maxNesting {
			return nil, fmt.Errorf("definitions that make definitions are nested deeper than %d: %w", maxNesting, errdefs.ErrInvalidArgument)
		}
		g, err := graph.Edits{Source: o.policy.Apply, Proxy: o.proxies != nil}.Load(ctx, def, o.b.cfg.Platforms[0])
		if err != nil {
			return nil, err
		}
		if err := checkNesting(g, o.outer); err != nil {
			return nil, err
		}
		build := o.b.scheduler.NewBuild(schedule.BuildConfig{
			ID: "nested/" + rand.Text(), Ops: o, Sessions: job.Sessions, Sink: job.Progress.Sink,
		})
		defer build.Close()
		res, err := build.Result(ctx, g)
		if err != nil {
			return nil, err
		}
		l, _ := res.(*layer.Layer)
		return l, o.b.keepLayer(ctx, l)
	}
}

// checkNesting fails where a step of the graph would wait for itself.
func checkNesting(g *graph.Graph, outer []digest.Digest) error {
	for _, s := range g.Steps {
		if slices.Contains(outer, s.Digest) {
			return fmt.Errorf("step %q makes a definition that needs the same step: %w", s.Meta.Name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// keepLayer keeps a layer, which may be nil, for as long as the lease that ctx
// carries.
func (b *Builder) keepLayer(ctx context.Context, l *layer.Layer) error {
	if l == nil {
		return nil
	}
	lease, ok := leases.FromContext(ctx)
	if !ok {
		return fmt.Errorf("keep layer %s: there is no lease: %w", l.Name, errdefs.ErrFailedPrecondition)
	}
	res := leases.Resource{ID: l.Name, Type: "snapshots/" + b.cfg.Store.Snapshotter}
	if err := b.cfg.Store.Leases.AddResource(b.cfg.Store.Context(ctx), leases.Lease{ID: lease}, res); err != nil {
		return fmt.Errorf("keep layer %s: %w", l.Name, err)
	}
	return nil
}
