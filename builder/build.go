package builder

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/export"
	"github.com/kiln-build/kiln/builder/frontend"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// bridgeWait is how long a client that drives its build may be ahead of the
// request that begins it.
const bridgeWait = 3 * time.Second

// Build does what the request asks for and returns when it is done, exported
// and cleaned up after. What happens meanwhile goes to sink. With an error there
// may be a response that has no more than an explanation.
func (b *Builder) Build(ctx context.Context, req Request, sink event.Sink) (_ *Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	defer func() { b.madeRoom(ctx, err) }()
	granted, err := b.grant(req.Entitlements)
	if err != nil {
		return nil, err
	}
	sessions := func() []string {
		if req.Session == "" {
			return nil
		}
		return []string{req.Session}
	}
	var bridge *frontend.Bridge
	policy, err := b.sourcePolicy(req, func(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
		return bridge.Describe(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	proxies, err := b.proxies(req, policy)
	if err != nil {
		return nil, err
	}
	blobs := b.prepare(req.Exporters)
	explain := b.explainer(req.Attrs)
	begun := time.Now()
	build := b.scheduler.NewBuild(schedule.BuildConfig{
		ID: req.Ref + "/" + rand.Text(), Sessions: sessions, Sink: sink, Ran: explain.note,
		Ops: ops{b: b, granted: granted, policy: policy, proxies: proxies, blobs: blobs, begun: begun},
	})
	defer build.Close()
	bridge = frontend.NewBridge(frontend.Config{
		Build: build, Layers: b.layers, Meta: metaResolver{b.sources}, Platform: b.cfg.Platforms[0],
		Frontends: b.cfg.Frontends, Sink: sink, Sessions: sessions, Workers: b.workerInfo(),
		Check: granted.check, Policy: policy, Proxies: proxies, Exec: b.exec, Lease: b.records.Temporary,
		Loaded: blobs.expect,
	}, req.Inputs)
	defer bridge.Close()
	end, err := b.register(req.Ref, running{bridge, build, begun})
	if err != nil {
		return nil, err
	}
	defer end()
	exporters, err := b.resolveExporters(ctx, req.Exporters)
	if err != nil {
		return nil, err
	}
	res, err := b.result(ctx, bridge, req)
	if err != nil {
		return &Response{Explanation: explain.text(ctx)}, err
	}
	more, err := b.sessionExporters(ctx, req, res)
	if err != nil {
		return nil, err
	}
	job := schedule.Job{Sessions: sessions, Progress: event.Progress{Sink: sink}}
	exporters = append(exporters, more...)
	what, err := trees(ctx, res, exporters)
	if err != nil {
		return &Response{Explanation: explain.text(ctx)}, err
	}
	if err := checkPlatforms(sink, req, res, what); err != nil {
		return nil, err
	}
	resp := respond(res)
	if err := b.export(ctx, exporters, what, job, resp); err != nil {
		return nil, err
	}
	explain.add(ctx, resp)
	return resp, b.tellSession(ctx, req, resp)
}

// running is a build that runs.
type running struct {
	bridge *frontend.Bridge
	build  *schedule.Build
	begun  time.Time
}

// register makes the build and its bridge known by its ref, until end is called.
func (b *Builder) register(ref string, r running) (end func(), _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.builds[ref]; ok {
		return nil, fmt.Errorf("a build with the ref %q is running: %w", ref, errdefs.ErrAlreadyExists)
	}
	b.builds[ref] = r
	close(b.changed)
	b.changed = make(chan struct{})
	return func() {
		b.mu.Lock()
		delete(b.builds, ref)
		b.mu.Unlock()
	}, nil
}

// Bridge gives the bridge of a running build. A build that isn't known yet is
// waited for, for three seconds.
func (b *Builder) Bridge(ctx context.Context, ref string) (*frontend.Bridge, error) {
	timeout := time.After(bridgeWait)
	for {
		b.mu.Lock()
		bridge, changed := b.builds[ref].bridge, b.changed
		b.mu.Unlock()
		if bridge != nil {
			return bridge, nil
		}
		select {
		case <-changed:
		case <-timeout:
			return nil, fmt.Errorf("no such job %s: %w", ref, errdefs.ErrNotFound)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// result is what the definition, the frontend or the client makes.
func (b *Builder) result(ctx context.Context, bridge *frontend.Bridge, req Request) (*frontend.Result, error) {
	var res *frontend.Result
	var err error
	if req.Frontend == "" && len(req.Definition.GetDef()) == 0 {
		res, err = bridge.Wait(ctx)
	} else {
		res, err = bridge.Solve(ctx, gwclient.SolveRequest{
			Definition: req.Definition, Frontend: req.Frontend, FrontendOpt: req.Attrs, FrontendInputs: req.Inputs,
		})
	}
	if err != nil {
		return nil, err
	}
	if res == nil {
		res = &frontend.Result{}
	}
	return res, nil
}

// respond is the response before anything is exported.
func respond(res *frontend.Result) *Response {
	resp := &Response{Exporter: map[string]string{}, Descriptors: map[int]ocispec.Descriptor{}}
	for k, v := range res.Metadata {
		if strings.HasPrefix(k, "frontend.") {
			resp.Exporter[k] = string(v)
		}
	}
	return resp
}

// export runs all exporters at the same time, then what they have left for the
// end.
func (b *Builder) export(ctx context.Context, exporters []export.Exporter, what export.Result, job schedule.Job, resp *Response) error {
	outcomes := make([]export.Outcome, len(exporters))
	err := each(len(exporters), func(i int) error {
		name := exporters[i].Name()
		return frontend.Vertex(job.Progress.Sink, digest.FromString(rand.Text()), name, func(p event.Progress) (err error) {
			job := job
			job.Progress = p
			ctx, leave := b.guard.join(ctx, name)
			defer leave()
			outcomes[i], err = exporters[i].Export(ctx, job, what)
			if err != nil {
				return reason(ctx, err)
			}
			defer outcomes[i].Release()
			if outcomes[i].Finalize != nil {
				return outcomes[i].Finalize(ctx)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for i, o := range outcomes {
		maps.Copy(resp.Exporter, o.Response)
		if o.Descriptor != nil {
			resp.Descriptors[i] = *o.Descriptor
		}
		resp.Documents = append(resp.Documents, o.Documents...)
	}
	return nil
}

func (b *Builder) resolveExporters(ctx context.Context, targets []export.Target) ([]export.Exporter, error) {
	var all []export.Exporter
	for _, t := range targets {
		e, err := b.exporters.Resolve(ctx, t)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// trees makes all trees of a result at the same time, as far as the exporters need
// them.
func trees(ctx context.Context, res *frontend.Result, exporters []export.Exporter) (export.Result, error) {
	get := (*frontend.Ref).Layer
	if len(exporters) > 0 && !slices.ContainsFunc(exporters, export.Exporter.Files) {
		get = (*frontend.Ref).Described
	}
	out := export.Result{Refs: map[string]*layer.Layer{}, Metadata: res.Metadata}
	refs := res.Refs
	if refs == nil {
		refs = map[string]*frontend.Ref{"": res.Ref}
	}
	var mu sync.Mutex
	eg, ctx := errgroup.WithContext(ctx)
	for k, ref := range refs {
		eg.Go(func() error {
			l, err := get(ref, ctx)
			mu.Lock()
			defer mu.Unlock()
			out.Refs[k] = l
			return err
		})
	}
	return out, eg.Wait()
}

// each calls f for 0..n-1 at the same time and returns their errors.
func each(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
