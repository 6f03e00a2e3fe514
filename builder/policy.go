package builder

import (
	"context"

	"github.com/kiln-build/kiln/builder/policy"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/source"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
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
