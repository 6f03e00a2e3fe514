package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
)

func allow(id string) *spb.Rule {
	return &spb.Rule{Action: spb.PolicyAction_ALLOW, Selector: &spb.Selector{Identifier: id}}
}

func deny(id string) *spb.Rule {
	return &spb.Rule{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: id}}
}

func convert(from, to string) *spb.Rule {
	return &spb.Rule{
		Action: spb.PolicyAction_CONVERT, Selector: &spb.Selector{Identifier: from}, Updates: &spb.Update{Identifier: to},
	}
}

// kind makes a rule one of another kind.
func kind(k spb.MatchType, r *spb.Rule) *spb.Rule {
	r.Selector.MatchType = k
	return r
}

// if1 lets a rule count only where the attribute a holds.
func if1(c spb.AttrMatch, value string, r *spb.Rule) *spb.Rule {
	r.Selector.Constraints = []*spb.AttrConstraint{{Key: "a", Value: value, Condition: c}}
	return r
}

func of(rules ...*spb.Rule) *spb.Policy { return &spb.Policy{Rules: rules} }

func TestRules(t *testing.T) {
	t.Parallel()
	attrs := func(rule *spb.Rule, attrs map[string]string) *spb.Rule {
		rule.Updates.Attrs = attrs
		return rule
	}
	for name, c := range map[string]struct {
		policies []*spb.Policy
		id       string // "x" if ""
		attrs    map[string]string
		want     string // id is allowed as it is if ""
		denied   bool
		wantA    string // attribute a afterwards
	}{
		"no rule":                  {policies: []*spb.Policy{of()}},
		"no rule is about it":      {policies: []*spb.Policy{of(deny("y"), deny("x?"))}},
		"denied":                   {policies: []*spb.Policy{of(deny("x"))}, denied: true},
		"the last rule wins":       {policies: []*spb.Policy{of(allow("x"), deny("x"), allow("x"))}},
		"the last rule denies":     {policies: []*spb.Policy{of(allow("x"), deny("*"))}, denied: true},
		"a second policy denies":   {policies: []*spb.Policy{of(allow("x")), of(deny("x"))}, denied: true},
		"a second one can't allow": {policies: []*spb.Policy{of(deny("x")), of(allow("x"))}, denied: true},
		"a line break hides none":  {policies: []*spb.Policy{of(deny("https://*"))}, id: "https://a\nb", denied: true},

		"converted":                 {policies: []*spb.Policy{of(convert("x", "y"))}, want: "y"},
		"converted twice":           {policies: []*spb.Policy{of(convert("y", "z"), convert("x", "y"))}, want: "z"},
		"converted and denied":      {policies: []*spb.Policy{of(deny("y"), convert("x", "y"))}, want: "y", denied: true},
		"converted before denial":   {policies: []*spb.Policy{of(deny("x"), convert("x", "y"))}, want: "y"},
		"converted by a later one":  {policies: []*spb.Policy{of(allow("x")), of(convert("x", "y"))}, want: "y"},
		"denied before a later one": {policies: []*spb.Policy{of(deny("x")), of(convert("x", "y"))}, denied: true},
		"converted to itself":       {policies: []*spb.Policy{of(convert("x", "x"), deny("x"))}, denied: true},

		"wildcard": {
			policies: []*spb.Policy{of(convert("docker-image://docker.io/*:*", "docker-image://mirror.test/$1:${2}-slim"))},
			id:       "docker-image://docker.io/library/go:1.2", want: "docker-image://mirror.test/library/go:1.2-slim",
		},
		"a wildcard is the whole name":   {policies: []*spb.Policy{of(deny("a*c"))}, id: "xabc"},
		"a wildcard is nothing else":     {policies: []*spb.Policy{of(deny("a.*"))}, id: "abc"},
		"exact":                          {policies: []*spb.Policy{of(kind(spb.MatchType_EXACT, deny("a*")))}, id: "abc"},
		"exactly the wildcard":           {policies: []*spb.Policy{of(kind(spb.MatchType_EXACT, deny("a*")))}, id: "a*", denied: true},
		"regular expression":             {policies: []*spb.Policy{of(kind(spb.MatchType_REGEX, deny(`^a[bc]$`)))}, id: "ac", denied: true},
		"a part of it":                   {policies: []*spb.Policy{of(kind(spb.MatchType_REGEX, deny(`b`)))}, id: "abc", denied: true},
		"regular expression that fills":  {policies: []*spb.Policy{of(kind(spb.MatchType_REGEX, convert(`go:(.*)`, "rust:${1}")))}, id: "a/go:1", want: "a/rust:1"},
		"a converted exact name":         {policies: []*spb.Policy{of(kind(spb.MatchType_EXACT, convert("x", "$1")))}, want: "$1"},
		"attributes alone":               {policies: []*spb.Policy{of(attrs(convert("x", ""), map[string]string{"a": "1"}))}, wantA: "1"},
		"attributes that are set":        {policies: []*spb.Policy{of(attrs(convert("x", ""), map[string]string{"a": "1"}), deny("x"))}, attrs: map[string]string{"a": "1"}, wantA: "1", denied: true},
		"equal":                          {policies: []*spb.Policy{of(if1(spb.AttrMatch_EQUAL, "1", deny("x")))}, attrs: map[string]string{"a": "1"}, wantA: "1", denied: true},
		"not equal":                      {policies: []*spb.Policy{of(if1(spb.AttrMatch_EQUAL, "1", deny("x")))}},
		"unequal":                        {policies: []*spb.Policy{of(if1(spb.AttrMatch_NOTEQUAL, "1", deny("x")))}, denied: true},
		"matching":                       {policies: []*spb.Policy{of(if1(spb.AttrMatch_MATCHES, "^1", deny("x")))}, attrs: map[string]string{"a": "12"}, wantA: "12", denied: true},
		"constraints count for the same": {policies: []*spb.Policy{of(if1(spb.AttrMatch_MATCHES, "2$", kind(spb.MatchType_EXACT, deny("x"))))}, attrs: map[string]string{"a": "1"}, wantA: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.id == "" {
				c.id = "x"
			}
			if c.want == "" {
				c.want = c.id
			}
			p, err := New(Config{Policies: c.policies})
			if err != nil {
				t.Fatal(err)
			}
			op := sourceOp(c.id, c.attrs)
			err = p.Apply(t.Context(), op)
			if got := op.GetSource(); got.Identifier != c.want || got.Attrs["a"] != c.wantA {
				t.Errorf("got %v", got)
			}
			if denied := errors.Is(err, ErrDenied) && errdefs.IsPermissionDenied(err); denied != c.denied || (err != nil) != c.denied {
				t.Errorf("got %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("source %q denied by policy", c.want)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func sourceOp(id string, attrs map[string]string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id, Attrs: maps.Clone(attrs)}}}
}

func TestLoop(t *testing.T) {
	t.Parallel()
	p, err := New(Config{Policies: []*spb.Policy{of(convert("x", "y"), convert("y", "x"))}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context(), sourceOp("x", nil)); err == nil || !strings.Contains(err.Error(), "too many operations") {
		t.Errorf("got %v", err)
	}
}

func TestInvalid(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]*spb.Policy{
		"invalid nil policy":                           nil,
		"invalid nil rule in policy":                   of(nil),
		"invalid nil selector in policy":               of(&spb.Rule{}),
		"invalid nil constraint in policy":             of(&spb.Rule{Selector: &spb.Selector{Constraints: []*spb.AttrConstraint{nil}}}),
		"rule 9000 x: unknown type":                    of(&spb.Rule{Action: 9000, Selector: &spb.Selector{Identifier: "x"}}),
		"missing destination for convert rule":         of(&spb.Rule{Action: spb.PolicyAction_CONVERT, Selector: &spb.Selector{}}),
		"unknown match type: 7":                        of(kind(7, deny("x"))),
		"unknown attr condition: 7":                    of(if1(7, "", deny("x"))),
		`selector "(": error parsing`:                  of(kind(spb.MatchType_REGEX, deny("("))),
		"constraint of attribute a: error parsing":     of(if1(spb.AttrMatch_MATCHES, "(", deny("x"))),
		`selector "a**": invalid wildcard: "**"`:       of(deny("a**")),
		`selector "\xff": error parsing regexp: inval`: of(deny("\xff")),
	} {
		for _, also := range [][]*spb.Policy{{p}, {of(allow("*")), p}} {
			base, err := New(Config{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := base.With(also); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v", want, err)
			}
		}
	}
}

func TestNothingDecides(t *testing.T) {
	t.Parallel()
	asked := func(*pb.SourceOp) string { panic("the name matters to nobody") }
	empty, err := New(Config{Canonical: asked, Policies: []*spb.Policy{of()}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Policy{nil, empty} {
		op := sourceOp("x", nil)
		if err := p.Apply(t.Context(), op); err != nil || op.GetSource().Identifier != "x" {
			t.Errorf("got %v, %v", op, err)
		}
		if p.Decides() || p.Digest() != "" {
			t.Error("it decides")
		}
		if more, err := p.With(nil); more != p || err != nil {
			t.Errorf("with nothing: %v, %v", more, err)
		}
	}
	p, err := New(Config{Policies: []*spb.Policy{of(deny("*"))}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context(), &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{}}}); err != nil {
		t.Errorf("an op without a source: %v", err)
	}
}

func TestWith(t *testing.T) {
	t.Parallel()
	canonical := func(s *pb.SourceOp) string { return strings.ToLower(s.Identifier) }
	base, err := New(Config{Policies: []*spb.Policy{of(convert("x", "Y"))}, Canonical: canonical})
	if err != nil {
		t.Fatal(err)
	}
	more, err := base.With([]*spb.Policy{of(deny("y"))})
	if err != nil {
		t.Fatal(err)
	}
	op := sourceOp("X", nil)
	if err := base.Apply(t.Context(), op); err != nil || op.GetSource().Identifier != "y" {
		t.Errorf("base: %v, %v", op, err)
	}
	if err := more.Apply(t.Context(), sourceOp("X", nil)); !errors.Is(err, ErrDenied) {
		t.Errorf("with more: %v", err)
	}
	again, err := New(Config{Policies: []*spb.Policy{of(convert("x", "Y")), of(deny("y"))}})
	if err != nil {
		t.Fatal(err)
	}
	if base.Digest() == more.Digest() || more.Digest() != again.Digest() {
		t.Errorf("digests %s, %s, %s", base.Digest(), more.Digest(), again.Digest())
	}
}

// script answers one question after the other.
type script struct {
	t       *testing.T
	answers []any // *DecisionResponse, *ResolveSourceMetaRequest or error
	asked   []*gwpb.ResolveSourceMetaResponse
}

func (s *script) CheckPolicy(_ context.Context, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
	shown := req.Source.CloneVT()
	s.asked = append(s.asked, shown)
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	switch a := a.(type) {
	case *policysession.DecisionResponse:
		return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Decision{Decision: a}}, nil
	case *gwpb.ResolveSourceMetaRequest:
		return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Request{Request: a}}, nil
	case error:
		return nil, a
	}
	return &policysession.CheckPolicyResponse{}, nil
}

func TestClient(t *testing.T) {
	t.Parallel()
	yes := &policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW}
	no := &policysession.DecisionResponse{Action: spb.PolicyAction_DENY, DenyMessages: []*policysession.DenyMessage{{Message: "why not"}}}
	to := func(id string) *policysession.DecisionResponse {
		return &policysession.DecisionResponse{Action: spb.PolicyAction_CONVERT, Update: &pb.SourceOp{Identifier: id}}
	}
	about := func(id string) *gwpb.ResolveSourceMetaRequest {
		return &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: id}}
	}
	for name, c := range map[string]struct {
		rules   []*spb.Rule
		answers []any
		asks    int
		want    string // an error's text
		then    string // the source afterwards
	}{
		"allowed":              {answers: []any{yes}, asks: 1},
		"denied":               {answers: []any{no}, asks: 1, want: `source "x" not allowed by policy: action DENY`},
		"denied by rules":      {rules: []*spb.Rule{deny("x")}, answers: []any{yes}, want: "denied by policy"},
		"fails":                {answers: []any{errors.New("fell over")}, asks: 1, want: "fell over"},
		"says nothing":         {answers: []any{nil}, asks: 1, want: "no decision in policy response"},
		"converts to nothing":  {answers: []any{&policysession.DecisionResponse{Action: spb.PolicyAction_CONVERT}}, asks: 1, want: "converts it to nothing"},
		"converts":             {answers: []any{to("y"), yes}, asks: 2, then: "y"},
		"converts for the":     {rules: []*spb.Rule{convert("y", "z")}, answers: []any{to("y"), yes}, asks: 2, then: "z"},
		"converts to denied":   {rules: []*spb.Rule{deny("y")}, answers: []any{to("y"), yes}, asks: 1, then: "y", want: "denied by policy"},
		"converts for ever":    {answers: []any{to("x")}, asks: maxQuestions, want: "too many policy requests"},
		"wants to know":        {answers: []any{about("x"), yes}, asks: 2},
		"never knows enough":   {answers: []any{about("x")}, asks: maxQuestions, want: "too many policy requests"},
		"wants to know others": {answers: []any{about("y")}, asks: 1, want: `asks about source "y"`},
		"wants other attributes": {answers: []any{&gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{
			Identifier: "x", Attrs: map[string]string{"a": "1"}}}}, asks: 1, want: "a:1"},
		"wants to know nothing": {answers: []any{&gwpb.ResolveSourceMetaRequest{}}, asks: 1, want: `asks about source ""`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &script{t: t, answers: c.answers}
			p, err := New(Config{Policies: []*spb.Policy{of(c.rules...)}, Client: s, Resolve: func(_ context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
				return &gwpb.ResolveSourceMetaResponse{Source: req.Source, Image: &gwpb.ResolveSourceImageResponse{Digest: "d"}}, nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			op := sourceOp("x", nil)
			err = p.Apply(t.Context(), op)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if c.then != "" && op.GetSource().Identifier != c.then {
				t.Errorf("got %v", op)
			}
			if len(s.asked) != c.asks {
				t.Errorf("asked %d times", len(s.asked))
			}
			if name == "wants to know" && (s.asked[0].Image != nil || s.asked[1].Image.GetDigest() != "d") {
				t.Errorf("asked about %v", s.asked)
			}
			if name == "denied" {
				if m := policysession.DenyMessages(err); len(m) != 1 || m[0].Message != "why not" || !errdefs.IsPermissionDenied(err) {
					t.Errorf("got %v, messages %v", err, m)
				}
			}
		})
	}
}
