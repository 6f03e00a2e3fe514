// Package local transfers directories of clients ("local" sources).
//
// Each transfer becomes a layer that doesn't change any more. The next one
// from the same directory only asks for the files whose metadata differs and
// becomes a layer on top of the one before, with nothing but the changes; a
// directory that hasn't changed is the layer that it was. The digest of each
// file is computed while it comes in, so that nobody has to read it again.
//
// What a client sends is not believed: see the checks in entry.go.
package local

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/store"
	digest "github.com/opencontainers/go-digest"
)

// Config is what a Source stands on.
type Config struct {
	// Root is a directory of this source alone; made if absent.
	Root     string
	Store    *store.Store
	Layers   *layer.Store
	Sessions *session.Manager
}

// Source transfers directories. It is safe for concurrent use.
type Source struct {
	cfg   Config
	shelf *shelf
}

// New returns a source with what earlier processes have left on the shelf.
func New(ctx context.Context, cfg Config) (*Source, error) {
	s, err := openShelf(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("local sources: %w", err)
	}
	return &Source{cfg: cfg, shelf: s}, nil
}

// Op makes the op of a step whose source is a client's directory. The result
// is its tree, a *layer.Layer.
func (s *Source) Op(step *graph.Step) (schedule.Op, error) {
	src := step.Op.GetSource()
	if src == nil {
		return nil, fmt.Errorf("step %s has no source: %w", step.Digest, errdefs.ErrInvalidArgument)
	}
	req, err := parseRequest(src)
	if err != nil {
		return nil, err
	}
	return &op{s: s, req: req}, nil
}

type op struct {
	s      *Source
	req    request
	result *result // once Key has been called
}

// result is a transferred directory.
type result struct {
	layer  *layer.Layer // nil: it is empty
	digest digest.Digest
}

// Key makes the transfer: the directory is pinned by having been copied. Equal
// directories have the same key, whoever's they are.
func (o *op) Key(ctx context.Context, job schedule.Job) (schedule.Key, error) {
	r, err := o.s.fromSessions(ctx, job, o.req)
	if err != nil {
		return schedule.Key{}, err
	}
	o.result = r
	return schedule.Key{
		Digest: digest.FromString("local\x00" + r.digest.String()),
		Parts: []cache.Part{
			{Name: "directory", Value: o.req.Name},
			{Name: "content", Value: r.digest.String()},
		},
		Record: cache.Description{Kind: cache.Local, Text: "local source for " + o.req.Name},
		Worked: true, // if only to find out that nothing has changed,
	}, nil
}

// Run has the record keep the layer that Key has made.
func (o *op) Run(ctx context.Context, _ schedule.Job, _ []schedule.Result) ([]schedule.Result, error) {
	if o.result == nil {
		return nil, fmt.Errorf("local source %s was not transferred: %w", o.req.Name, errdefs.ErrFailedPrecondition)
	}
	l := o.result.layer
	if l == nil {
		return []schedule.Result{l}, nil
	}
	ctx = o.s.cfg.Store.Context(ctx)
	lease, ok := leases.FromContext(ctx)
	if ok {
		r := leases.Resource{ID: l.Name, Type: "snapshots/" + o.s.cfg.Store.Snapshotter}
		if err := o.s.cfg.Store.Leases.AddResource(ctx, leases.Lease{ID: lease}, r); err != nil {
			return nil, fmt.Errorf("keep local source %s: %w", o.req.Name, err)
		}
	}
	l, err := o.s.cfg.Layers.Open(ctx, l.Name) // it is still there
	if err != nil {
		return nil, fmt.Errorf("local source %s: %w", o.req.Name, err)
	}
	for _, part := range l.Chain() {
		part.Lease = lease
	}
	return []schedule.Result{l}, nil
}

// fromSessions asks the session that the source names, and the others where
// that one is gone or doesn't know the directory.
func (s *Source) fromSessions(ctx context.Context, job schedule.Job, req request) (r *result, err error) {
	use := func(c *session.Client) error {
		r, err = s.transfer(ctx, job, c, req)
		return err
	}
	ids := job.Sessions()
	if req.session != "" {
		err := s.cfg.Sessions.Any(ctx, []string{req.session}, use)
		if err == nil || len(ids) == 0 || !errdefs.IsNotFound(err) {
			return r, wrap(req, err)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("local source %s needs a session: %w", req.Name, errdefs.ErrInvalidArgument)
	}
	return r, wrap(req, s.cfg.Sessions.Any(ctx, ids, use))
}

func wrap(req request, err error) error {
	prefix := "local source " + req.Name
	if err == nil || strings.HasPrefix(err.Error(), prefix) {
		return err
	}
	return fmt.Errorf("%s: %w", prefix, err)
}
