// Package frontend turns what a user wrote into graphs. A frontend is given a
// [Bridge], through which it asks for results, reads files of them, and asks
// for what sources are; so does a client that drives its build itself.
package frontend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/op"
	"github.com/kiln-build/kiln/builder/policy"
	"github.com/kiln-build/kiln/builder/sandbox/proxy"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/solver/result"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Result is what a frontend returns. A nil *Ref in it is the empty tree.
type Result = result.Result[*Ref]

// Func is a frontend. It reads its options and inputs from the client and asks
// it for results.
type Func func(ctx context.Context, c gwclient.Client) (*gwclient.Result, error)

// MetaResolver finds out what a source is, without fetching it.
type MetaResolver interface {
	ResolveMeta(ctx context.Context, job schedule.Job, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error)
}

// Config is what a bridge stands on.
type Config struct {
	Build     *schedule.Build
	Layers    *layer.Store
	Meta      MetaResolver
	Platform  ocispec.Platform
	Frontends map[string]Func
	Sink      event.Sink
	Sessions  func() []string
	Workers   []gwclient.WorkerInfo
	// Policy decides on all sources.
	Policy *policy.Policy
	// Loaded is told of each graph whose result is asked for.
	Loaded func(*graph.Graph)
	// Check says whether the build may do what a step does.
	Check func(*pb.Op) error
	// Exec runs the processes of containers, whose trees belong to a Lease. It
	// lasts until release.
	Exec *op.ExecConfig
	// Proxies makes the proxies that stand before all networks; nil: there are none.
	Proxies *proxy.Authority
	Lease   func(ctx context.Context) (_ context.Context, release func(), _ error)
}

// Bridge is one build as its frontend sees it. It is safe for concurrent use.
type Bridge struct {
	cfg    Config
	inputs map[string]*pb.Definition

	ctx    context.Context // until Close
	cancel context.CancelFunc

	mu    sync.Mutex
	refs  map[string]*Ref
	metas map[digest.Digest]*meta
	// failed are the trees of failed steps, by the ids that errors give them.
	failed     map[string]*layer.Layer
	containers map[string]*Container
	living     sync.WaitGroup // containers; added to under mu, before Close

	returned chan struct{}
	once     sync.Once
	result   *Result
	err      error
}

// NewBridge makes the bridge of a build whose request has the given inputs. It
// must be closed before cfg.Build.
func NewBridge(cfg Config, inputs map[string]*pb.Definition) *Bridge {
	ctx, cancel := context.WithCancel(context.Background())
	return &Bridge{
		cfg: cfg, inputs: inputs, ctx: ctx, cancel: cancel,
		refs: map[string]*Ref{}, metas: map[digest.Digest]*meta{},
		failed: map[string]*layer.Layer{}, containers: map[string]*Container{},
		returned: make(chan struct{}),
	}
}

// Close ends all containers of the build.
func (b *Bridge) Close() {
	b.mu.Lock()
	b.cancel()
	b.mu.Unlock()
	b.living.Wait()
}

// Inputs are the definitions that came with the build's request.
func (b *Bridge) Inputs() map[string]*pb.Definition { return b.inputs }

// Workers say where the build runs.
func (b *Bridge) Workers() []gwclient.WorkerInfo { return b.cfg.Workers }

// Solve gives the result of a definition or of a frontend. Steps run when the
// result is needed; with Evaluate, before Solve returns.
func (b *Bridge) Solve(ctx context.Context, req gwclient.SolveRequest) (*Result, error) {
	hasDefinition := req.Definition != nil && len(req.Definition.Def) > 0
	var res *Result
	var err error
	switch {
	case hasDefinition && req.Frontend != "":
		return nil, fmt.Errorf("a request has a definition and a frontend (%s), only one is possible: %w", req.Frontend, errdefs.ErrInvalidArgument)
	case hasDefinition:
		res, err = b.solveDefinition(ctx, req.Definition, req.SourcePolicies)
	case req.Frontend != "":
		res, err = b.solveFrontend(ctx, req)
	default:
		return &Result{}, nil
	}
	if err != nil {
		return nil, err
	}
	if req.Evaluate {
		err = b.Evaluate(ctx, res)
	}
	return res, err
}

func (b *Bridge) solveDefinition(ctx context.Context, def *pb.Definition, policies []*spb.Policy) (*Result, error) {
	ref, err := b.newRef(ctx, def, policies)
	if err != nil {
		return nil, err
	}
	res := &Result{}
	res.SetRef(ref)
	return res, nil
}

func (b *Bridge) solveFrontend(ctx context.Context, req gwclient.SolveRequest) (*Result, error) {
	name := req.Frontend
	if name == "gateway.v0" && req.FrontendOpt["source"] == "dockerfile.v0" {
		name = "dockerfile.v0"
	}
	f := b.cfg.Frontends[name]
	if f == nil {
		return nil, fmt.Errorf("frontend %s is not known; there are %v: %w", name, slices.Sorted(maps.Keys(b.cfg.Frontends)), errdefs.ErrNotFound)
	}
	inputs := req.FrontendInputs
	if inputs == nil {
		inputs = b.inputs
	}
	got, err := f(ctx, &client{b: b, opts: req.FrontendOpt, inputs: inputs, policies: req.SourcePolicies})
	if err != nil {
		return nil, err
	}
	return result.ConvertResult(got, func(r gwclient.Reference) (*Ref, error) {
		ref, ok := r.(*Ref)
		if !ok {
			return nil, errors.New("frontend returned a reference that is not this build's")
		}
		return ref, nil
	})
}

// Evaluate makes all trees of a result, at the same time.
func (b *Bridge) Evaluate(ctx context.Context, res *Result) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	_ = res.EachRef(func(r *Ref) error {
		wg.Go(func() {
			if err := r.Evaluate(ctx); err != nil {
				cancel(err)
			}
		})
		return nil
	})
	wg.Wait()
	return context.Cause(ctx)
}

// newRef makes the reference of a definition, to whose sources the policies apply
// beside the build's.
func (b *Bridge) newRef(ctx context.Context, def *pb.Definition, policies []*spb.Policy) (*Ref, error) {
	p, err := b.cfg.Policy.With(policies)
	if err != nil {
		return nil, err
	}
	g, err := graph.Edits{Source: p.Apply, Proxy: b.cfg.Proxies != nil}.Load(ctx, def, b.cfg.Platform)
	if err != nil {
		return nil, err
	}
	for _, s := range g.Steps {
		if err := b.cfg.Check(s.Op); err != nil {
			return nil, err
		}
	}
	b.cfg.Loaded(g)
	ref := &Ref{id: newID(), b: b, def: def, graph: g}
	b.mu.Lock()
	b.refs[ref.id] = ref
	b.mu.Unlock()
	return ref, nil
}

func newID() string { return strings.ToLower(rand.Text()) }

// Ref gives an earlier result by its id.
func (b *Bridge) Ref(id string) (*Ref, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ref := b.refs[id]; ref != nil {
		return ref, nil
	}
	return nil, fmt.Errorf("reference %q is not this build's: %w", id, errdefs.ErrNotFound)
}

// Warn reports advice about the step to the author of the build.
func (b *Bridge) Warn(_ context.Context, vertex digest.Digest, msg string, opt gwclient.WarnOpts) error {
	b.cfg.Sink.Emit(&event.Warning{
		Vertex: vertex, Level: opt.Level, Short: []byte(msg),
		Detail: opt.Detail, URL: opt.URL, Info: opt.SourceInfo, Ranges: opt.Range,
	})
	return nil
}

// Return ends a build that its client drives. Only the first call counts.
func (b *Bridge) Return(res *Result, err error) {
	b.once.Do(func() {
		b.result, b.err = res, err
		close(b.returned)
	})
}

// Wait waits for Return.
func (b *Bridge) Wait(ctx context.Context) (*Result, error) {
	select {
	case <-b.returned:
		return b.result, b.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
