package builder_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/policy"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/llbbuild"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"github.com/tonistiigi/fsutil"
)

// contexts offers a directory, without files, of each name.
func contexts(t *testing.T, names ...string) filesync.StaticDirSource {
	t.Helper()
	dirs := filesync.StaticDirSource{}
	for _, name := range names {
		fs, err := fsutil.NewFS(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		dirs[name] = fs
	}
	return dirs
}

func rules(all ...*spb.Rule) *spb.Policy { return &spb.Policy{Rules: all} }

func rule(action spb.PolicyAction, id, to string) *spb.Rule {
	r := &spb.Rule{Action: action, Selector: &spb.Selector{Identifier: id}}
	if to != "" {
		r.Updates = &spb.Update{Identifier: to}
	}
	return r
}

// TestSourcePolicy: the request's policy reaches every way to a source.
func TestSourcePolicy(t *testing.T) {
	t.Parallel()
	var sessions *session.Manager
	b := open(t, func(cfg *builder.Config) { sessions = cfg.Sessions })
	client, _ := sessiontest.Open(t, sessions, "", filesync.NewFSSyncProvider(contexts(t, "good")))
	bad := llb.Local("bad")
	nested := llb.Scratch().File(llb.Mkfile(pb.LLBDefaultDefinitionFile, 0o644, dump(t, bad)))
	for name, st := range map[string]llb.State{
		"source":           bad,
		"input of another": llb.Scratch().File(llb.Copy(bad, "/", "/x")),
		"nested":           nested.With(llbbuild.Build()),
	} {
		req := builder.Request{Ref: name, Session: client.ID(), Definition: definition(t, st)}
		req.SourcePolicy = rules(rule(spb.PolicyAction_DENY, "local://*", ""), rule(spb.PolicyAction_ALLOW, "local://good", ""))
		if _, err := b.Build(t.Context(), req, &watch{}); !errors.Is(err, policy.ErrDenied) {
			t.Errorf("%s: denied: got %v", name, err)
		}
		req.SourcePolicy = rules(rule(spb.PolicyAction_DENY, "local://bad", ""), rule(spb.PolicyAction_CONVERT, "local://b*d", "local://good"))
		w := &watch{}
		if _, err := b.Build(t.Context(), req, w); err != nil {
			t.Errorf("%s: converted: got %v", name, err)
		}
	}
	req := builder.Request{Ref: "invalid", Definition: definition(t, bad), SourcePolicy: rules(&spb.Rule{})}
	if _, err := b.Build(t.Context(), req, &watch{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("invalid policy: got %v", err)
	}
}

// dump is a definition as files have it.
func dump(t *testing.T, st llb.State) []byte {
	t.Helper()
	dt, err := definition(t, st).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return dt
}

// TestFrontendPolicy: policies of frontends count beside the request's.
func TestFrontendPolicy(t *testing.T) {
	t.Parallel()
	deny := []*spb.Policy{rules(rule(spb.PolicyAction_DENY, "docker-image://docker.io/library/x:latest", ""))}
	ask := func(ctx context.Context, c gwclient.Client, mine []*spb.Policy) error {
		_, _, _, err := c.ResolveImageConfig(ctx, "x", sourceresolver.Opt{SourcePolicies: mine})
		if !errors.Is(err, policy.ErrDenied) {
			return errors.Join(errors.New("resolved"), err)
		}
		def := definition(t, llb.NewState(llb.NewSource("docker-image://x", nil, llb.Constraints{}).Output()))
		_, err = c.Solve(ctx, gwclient.SolveRequest{Definition: def, SourcePolicies: mine})
		if !errors.Is(err, policy.ErrDenied) {
			return errors.Join(errors.New("solved"), err)
		}
		return nil
	}
	b := open(t, func(cfg *builder.Config) {
		cfg.Frontends["outer"] = func(ctx context.Context, c gwclient.Client) (*gwclient.Result, error) {
			if err := ask(ctx, c, deny); err != nil {
				return nil, err
			}
			return c.Solve(ctx, gwclient.SolveRequest{Frontend: "inner", SourcePolicies: deny})
		}
		cfg.Frontends["inner"] = func(ctx context.Context, c gwclient.Client) (*gwclient.Result, error) {
			return gwclient.NewResult(), ask(ctx, c, nil)
		}
	})
	if _, err := b.Build(t.Context(), builder.Request{Ref: "of frontends", Frontend: "outer"}, &watch{}); err != nil {
		t.Error(err)
	}
	if _, err := b.Build(t.Context(), builder.Request{Ref: "of the request", Frontend: "inner", SourcePolicy: deny[0]}, &watch{}); err != nil {
		t.Error(err)
	}
}

// TestPolicySession: a client decides about sources, and may ask what they are.
func TestPolicySession(t *testing.T) {
	t.Parallel()
	var sessions *session.Manager
	b := open(t, func(cfg *builder.Config) { sessions = cfg.Sessions })
	var mu sync.Mutex
	var asked []string
	decide := func(_ context.Context, req *policysession.CheckPolicyRequest) (*policysession.DecisionResponse, *gwpb.ResolveSourceMetaRequest, error) {
		mu.Lock()
		defer mu.Unlock()
		id := req.Source.Source.Identifier
		asked = append(asked, id)
		switch id {
		case "local://bad":
			return &policysession.DecisionResponse{Action: spb.PolicyAction_DENY, DenyMessages: []*policysession.DenyMessage{{Message: "take good"}}}, nil, nil
		case "local://other":
			return &policysession.DecisionResponse{Action: spb.PolicyAction_CONVERT, Update: &pb.SourceOp{Identifier: "local://good"}}, nil, nil
		}
		if len(asked) == 1 {
			return nil, &gwpb.ResolveSourceMetaRequest{Source: req.Source.Source}, nil
		}
		return &policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW}, nil, nil
	}
	client, _ := sessiontest.Open(t, sessions, "", filesync.NewFSSyncProvider(contexts(t, "good")), policysession.NewPolicyProvider(decide))
	build := func(ref, id string) error {
		_, err := b.Build(t.Context(), builder.Request{
			Ref: ref, Session: client.ID(), SourcePolicySession: client.ID(),
			Definition: definition(t, llb.Local(id, llb.SessionID(client.ID()), llb.SharedKeyHint(""))),
		}, &watch{})
		return err
	}
	want := []string{"local://good", "local://good"}
	if err := build("1", "good"); err != nil || !slices.Equal(asked, want) {
		t.Errorf("got %v, asked %v", err, asked)
	}
	err := build("2", "bad")
	if m := policysession.DenyMessages(err); !errors.Is(err, policy.ErrDenied) || len(m) != 1 || m[0].Message != "take good" {
		t.Errorf("got %v", err)
	}
	if err := build("3", "other"); err != nil {
		t.Error(err)
	}
	silent, _ := sessiontest.Open(t, sessions, "")
	req := builder.Request{Ref: "4", SourcePolicySession: silent.ID(), Definition: definition(t, llb.Local("good"))}
	if _, err := b.Build(t.Context(), req, &watch{}); !errdefs.IsNotImplemented(err) {
		t.Errorf("a client that can't decide: %v", err)
	}
}
