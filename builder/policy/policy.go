// Package policy decides which sources a build may use, and replaces some by
// others: by rules that came with the request or from the frontend
// ([spb.Policy]), and by asking the client (policysession).
//
// Policies are gone through in order, the rules of one in order. Of the rules that
// match a source, the last ALLOW or DENY counts; the first CONVERT that changes
// something begins all anew with the new source. What no rule is about is allowed.
// A source that the rules allow is then shown to the client, if it wants to see it.
package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	digest "github.com/opencontainers/go-digest"
)

// ErrDenied is in the error of a source that a policy denies, beside
// errdefs.ErrPermissionDenied.
var ErrDenied = errors.New("source denied by policy")

// errLoop is in the error of a source that was changed too often.
var errLoop = errors.New("too many operations")

const (
	// maxChanges bounds how often the rules may change one source.
	maxChanges = 20
	// maxQuestions bounds how often the client is asked about one source.
	maxQuestions = 10
)

// Asker asks the client what it thinks of a source.
type Asker interface {
	CheckPolicy(context.Context, *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error)
}

// Config is what a Policy is made of. All of it may be zero.
type Config struct {
	Policies []*spb.Policy
	// Client is who decides beside the policies; nil: nobody does.
	Client Asker
	// Resolve finds out for the client what a source is, without a policy.
	Resolve func(context.Context, *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error)
	// Canonical gives the one name of a source that has several; nil: all names are.
	Canonical func(*pb.SourceOp) string
}

// Policy decides on the sources of one build. A nil one allows all. It is safe for
// concurrent use.
type Policy struct {
	cfg   Config
	rules [][]rule // those of a policy together
}

// New checks the policies; what is wrong with them is errdefs.ErrInvalidArgument.
func New(cfg Config) (*Policy, error) {
	p := &Policy{cfg: cfg}
	for _, from := range cfg.Policies {
		rules, err := compile(from)
		if err != nil {
			return nil, fmt.Errorf("source policy: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if len(rules) > 0 {
			p.rules = append(p.rules, rules)
		}
	}
	return p, nil
}

// With adds policies behind those of p.
func (p *Policy) With(more []*spb.Policy) (*Policy, error) {
	if len(more) == 0 {
		return p, nil
	}
	var cfg Config
	if p != nil {
		cfg = p.cfg
	}
	cfg.Policies = slices.Concat(cfg.Policies, more)
	return New(cfg)
}

// Decides tells whether there is anything that could deny or change a source.
func (p *Policy) Decides() bool {
	return p != nil && (len(p.rules) > 0 || p.cfg.Client != nil)
}

// Digest tells policies apart that may decide differently; "" is one that allows
// all. What the client would say can't be known: there is one for all clients.
func (p *Policy) Digest() digest.Digest {
	if !p.Decides() {
		return ""
	}
	dt, _ := json.Marshal(struct { //nolint:errcheck // plain values
		Policies []*spb.Policy
		Asks     bool
	}{p.cfg.Policies, p.cfg.Client != nil})
	return digest.FromBytes(dt)
}

// Apply makes the source of op the one to use, which may be another one. Ops
// without a source stay as they are. It fails if the source is denied.
func (p *Policy) Apply(ctx context.Context, op *pb.Op) error {
	if !p.Decides() || op.GetSource() == nil {
		return nil
	}
	for questions := maxQuestions; ; {
		if err := p.applyRules(op.GetSource()); err != nil {
			return err
		}
		if p.cfg.Client == nil {
			return nil
		}
		changed, err := p.askClient(ctx, op, &questions)
		if err != nil || !changed {
			return err
		}
	}
}

// applyRules changes src until no rule does, and checks that it is allowed.
func (p *Policy) applyRules(src *pb.SourceOp) error {
	for range maxChanges + 1 {
		if p.cfg.Canonical != nil {
			src.Identifier = p.cfg.Canonical(src)
		}
		changed, err := p.pass(src)
		if err != nil || !changed {
			return err
		}
	}
	return fmt.Errorf("source %q: too many mutations on a single source: %w: %w", src.Identifier, errLoop, errdefs.ErrInvalidArgument)
}

// pass goes through the rules once, until one changes src.
func (p *Policy) pass(src *pb.SourceOp) (changed bool, _ error) {
	for _, rules := range p.rules {
		denied := false
		for i := range rules {
			r := &rules[i]
			if !r.matches(src) {
				continue
			}
			switch r.action {
			case spb.PolicyAction_ALLOW:
				denied = false
			case spb.PolicyAction_DENY:
				denied = true
			case spb.PolicyAction_CONVERT:
				if r.convert(src) {
					return true, nil
				}
			}
		}
		if denied {
			return false, fmt.Errorf("source %q denied by policy: %w: %w", src.Identifier, ErrDenied, errdefs.ErrPermissionDenied)
		}
	}
	return false, nil
}

// askClient shows the client the source, and what it is if the client asks for that.
func (p *Policy) askClient(ctx context.Context, op *pb.Op, questions *int) (changed bool, _ error) {
	src := op.GetSource()
	req := &policysession.CheckPolicyRequest{
		Platform: op.Platform,
		Source:   &gwpb.ResolveSourceMetaResponse{Source: src},
	}
	for ; *questions > 0; *questions-- {
		resp, err := p.cfg.Client.CheckPolicy(ctx, req)
		if err != nil {
			return false, fmt.Errorf("check source %q by the client's policy: %w", src.Identifier, err)
		}
		ask := resp.GetRequest()
		if ask == nil {
			*questions--
			return decide(src, resp.GetDecision())
		}
		if ask.Source.GetIdentifier() != src.Identifier || !maps.Equal(ask.Source.GetAttrs(), src.Attrs) {
			return false, fmt.Errorf("the client's policy asks about source %q (%v), not about %q (%v): %w",
				ask.Source.GetIdentifier(), ask.Source.GetAttrs(), src.Identifier, src.Attrs, errdefs.ErrInvalidArgument)
		}
		ask.SourcePolicies = nil
		if req.Source, err = p.cfg.Resolve(ctx, ask); err != nil {
			return false, fmt.Errorf("resolve source %q for the client's policy: %w", src.Identifier, err)
		}
	}
	return false, fmt.Errorf("source %q: too many policy requests: %w", src.Identifier, errdefs.ErrInvalidArgument)
}

// decide does with src what the client says.
func decide(src *pb.SourceOp, d *policysession.DecisionResponse) (changed bool, _ error) {
	switch {
	case d == nil:
		return false, fmt.Errorf("source %q: no decision in policy response: %w", src.Identifier, errdefs.ErrInvalidArgument)
	case d.Action == spb.PolicyAction_ALLOW:
		return false, nil
	case d.Action == spb.PolicyAction_CONVERT && d.Update == nil:
		return false, fmt.Errorf("source %q: the client's policy converts it to nothing: %w", src.Identifier, errdefs.ErrInvalidArgument)
	case d.Action == spb.PolicyAction_CONVERT:
		src.Identifier, src.Attrs = d.Update.Identifier, maps.Clone(d.Update.Attrs)
		return true, nil
	}
	err := fmt.Errorf("source %q not allowed by policy: action %s: %w: %w", src.Identifier, d.Action, ErrDenied, errdefs.ErrPermissionDenied)
	return false, policysession.WrapDenyMessages(err, d.DenyMessages)
}
