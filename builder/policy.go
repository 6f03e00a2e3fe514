package builder

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/policy"
	"github.com/kiln-build/kiln/builder/sandbox/proxy"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/source"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
)

// sourcePolicy is what decides on the sources of the request.
func (b *Builder) sourcePolicy(req Request, resolve func(context.Context, *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error)) (*policy.Policy, error) {
	cfg := policy.Config{Resolve: resolve, Canonical: source.Canonical}
	if req.SourcePolicy != nil {
		cfg.Policies = []*spb.Policy{req.SourcePolicy}
	}
	if req.SourcePolicySession != "" {
		cfg.Client = policyClient{b.cfg.Sessions, req.SourcePolicySession}
	}
	return policy.New(cfg)
}

// proxies makes the proxies of the request's processes; it is nil where there are none.
func (b *Builder) proxies(req Request, p *policy.Policy) (*proxy.Authority, error) {
	if !req.ProxyNetwork && !b.cfg.ProxyNetwork {
		return nil, nil
	}
	return proxy.NewAuthority(func(ctx context.Context, url string) (string, error) {
		src := &pb.SourceOp{Identifier: url}
		if err := p.Apply(ctx, &pb.Op{Op: &pb.Op_Source{Source: src}}); err != nil {
			return "", err
		}
		if len(src.Attrs) > 0 {
			return "", fmt.Errorf("the policy sets attributes of %s, which requests through the proxy have none of: %w", url, errdefs.ErrInvalidArgument)
		}
		return src.Identifier, nil
	})
}

// policyClient asks the client behind a session, which may not have arrived yet.
type policyClient struct {
	sessions *session.Manager
	id       string
}

// CheckPolicy implements policy.Asker.
func (c policyClient) CheckPolicy(ctx context.Context, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
	client, err := c.sessions.Get(ctx, c.id)
	if err != nil {
		return nil, err
	}
	return client.CheckPolicy(ctx, req)
}
