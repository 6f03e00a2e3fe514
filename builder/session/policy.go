package session

import (
	"context"

	"github.com/moby/buildkit/sourcepolicy/policysession"
)

// CheckPolicy asks the client what it thinks of a source.
func (c *Client) CheckPolicy(ctx context.Context, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
	if err := c.require(policysession.PolicyVerifier_CheckPolicy_FullMethodName, "to decide on sources"); err != nil {
		return nil, err
	}
	ctx, cancel := call(ctx)
	defer cancel()
	resp, err := policysession.NewPolicyVerifierClient(c.cc).CheckPolicy(ctx, req)
	return resp, c.fail(err)
}
