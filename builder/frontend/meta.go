package frontend

import (
	"context"
	"encoding/json"
	"time"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// meta is one answer about a source; a build asks only once.
type meta struct {
	done chan struct{}
	resp *sourceresolver.MetaResponse
	err  error
}

// ResolveSourceMeta says what a source is: of an image, its digest and config; or
// what the source is that a policy replaces it by.
// It is shown as a step of the build, by opt.LogName.
func (b *Bridge) ResolveSourceMeta(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	asked, err := json.Marshal(struct {
		Op  *pb.SourceOp
		Opt sourceresolver.Opt
	}{op, opt})
	if err != nil {
		return nil, err
	}
	key := digest.FromBytes(asked)
	for {
		b.mu.Lock()
		m := b.metas[key]
		mine := m == nil
		if mine {
			m = &meta{done: make(chan struct{})}
			b.metas[key] = m
		}
		b.mu.Unlock()
		if mine {
			b.resolve(ctx, key, m, op, opt)
			return m.resp, m.err
		}
		select {
		case <-m.done:
			if m.err == nil {
				return m.resp, nil
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// resolve asks. A failed answer is forgotten.
func (b *Bridge) resolve(ctx context.Context, key digest.Digest, m *meta, op *pb.SourceOp, opt sourceresolver.Opt) {
	defer close(m.done)
	name := opt.LogName
	if name == "" {
		name = "resolve " + op.Identifier
	}
	m.err = Vertex(b.cfg.Sink, key, name, func(p event.Progress) error {
		op, err := b.applyPolicy(ctx, op, opt)
		if err != nil {
			return err
		}
		m.resp, err = b.cfg.Meta.ResolveMeta(ctx, schedule.Job{Sessions: b.cfg.Sessions, Progress: p}, op, opt)
		return err
	})
	if m.err != nil {
		b.mu.Lock()
		delete(b.metas, key)
		b.mu.Unlock()
	}
}

// applyPolicy gives the source to use for op.
func (b *Bridge) applyPolicy(ctx context.Context, src *pb.SourceOp, opt sourceresolver.Opt) (*pb.SourceOp, error) {
	p, err := b.cfg.Policy.With(opt.SourcePolicies)
	if err != nil {
		return nil, err
	}
	op := &pb.Op{Op: &pb.Op_Source{Source: src.CloneVT()}}
	switch {
	case opt.ImageOpt != nil && opt.ImageOpt.Platform != nil:
		op.Platform = pb.PlatformFromSpec(*opt.ImageOpt.Platform)
	case opt.OCILayoutOpt != nil && opt.OCILayoutOpt.Platform != nil:
		op.Platform = pb.PlatformFromSpec(*opt.OCILayoutOpt.Platform)
	}
	err = p.Apply(ctx, op)
	return op.GetSource(), err
}

// Describe says what a source is to those who decide whether it may be used: no
// policy applies.
func (b *Bridge) Describe(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	var resp *sourceresolver.MetaResponse
	name := "resolve " + req.Source.GetIdentifier() + " for the policy"
	err := Vertex(b.cfg.Sink, digest.FromString(newID()), name, func(p event.Progress) (err error) {
		job := schedule.Job{Sessions: b.cfg.Sessions, Progress: p}
		resp, err = b.cfg.Meta.ResolveMeta(ctx, job, req.Source, MetaOptions(req))
		return err
	})
	if err != nil {
		return nil, err
	}
	return MetaResponse(resp), nil
}

// Vertex shows what f does as a step of the build that isn't one of its graph.
func Vertex(sink event.Sink, id digest.Digest, name string, f func(event.Progress) error) error {
	start := time.Now()
	v := event.Vertex{Digest: id, Name: name, Started: &start}
	queued := v
	sink.Emit(&queued)
	err := f(event.Progress{Sink: sink, Vertex: id})
	end := time.Now()
	v.Completed = &end
	if err != nil {
		v.Error = err.Error()
	}
	sink.Emit(&v)
	return err
}
