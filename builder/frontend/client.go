package frontend

import (
	"context"
	"fmt"
	"slices"

	"github.com/kiln-build/kiln/builder/graph"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/solver/result"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/apicaps"
	digest "github.com/opencontainers/go-digest"
)

// client is a bridge as a frontend in this process sees it, with the options
// and inputs that were meant for it.
type client struct {
	b      *Bridge
	opts   map[string]string
	inputs map[string]*pb.Definition
	// policies are for all that the frontend asks for.
	policies []*spb.Policy
}

func (c *client) BuildOpts() gwclient.BuildOpts {
	opts := gwclient.BuildOpts{
		Opts:    c.opts,
		Workers: c.b.cfg.Workers,
		Product: apicaps.ExportedProduct,
		LLBCaps: pb.Caps.CapSet(graph.Caps()),
		Caps:    gwpb.Caps.CapSet(Caps()),
	}
	if ids := c.b.cfg.Sessions(); len(ids) > 0 {
		opts.SessionID = ids[0]
	}
	return opts
}

// Inputs implements gwclient.Client. An input without a definition is an error:
// frontends read files of inputs, and the empty tree has none.
func (c *client) Inputs(context.Context) (map[string]llb.State, error) {
	states := make(map[string]llb.State, len(c.inputs))
	for name, def := range c.inputs {
		op, err := llb.NewDefinitionOp(def)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", name, err)
		}
		states[name] = llb.NewState(op)
	}
	return states, nil
}

func (c *client) Solve(ctx context.Context, req gwclient.SolveRequest) (*gwclient.Result, error) {
	req.SourcePolicies = slices.Concat(c.policies, req.SourcePolicies)
	res, err := c.b.Solve(ctx, req)
	if err != nil {
		return nil, err
	}
	return result.ConvertResult(res, func(r *Ref) (gwclient.Reference, error) { return r, nil })
}

func (c *client) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	opt.SourcePolicies = slices.Concat(c.policies, opt.SourcePolicies)
	return c.b.ResolveSourceMeta(ctx, op, opt)
}

func (c *client) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return sourceresolver.NewImageMetaResolver(c).ResolveImageConfig(ctx, ref, opt)
}

func (c *client) Warn(ctx context.Context, vertex digest.Digest, msg string, opt gwclient.WarnOpts) error {
	return c.b.Warn(ctx, vertex, msg, opt)
}

func (c *client) NewContainer(ctx context.Context, req gwclient.NewContainerRequest) (gwclient.Container, error) {
	made, err := c.b.NewContainer(ctx, newID(), req)
	if err != nil {
		return nil, err
	}
	return made, nil
}
