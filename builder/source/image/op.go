package image

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Op makes the op of a step whose source is an image. The result is its tree,
// a *layer.Layer.
func (s *Source) Op(step *graph.Step) (schedule.Op, error) {
	src := step.Op.GetSource()
	if src == nil {
		return nil, fmt.Errorf("step %s has no source: %w", step.Digest, errdefs.ErrInvalidArgument)
	}
	req, err := parseRequest(src, toPlatform(step.Platform, s.cfg.Platform))
	if err != nil {
		return nil, err
	}
	return &op{s: s, req: req}, nil
}

type op struct {
	s      *Source
	req    request
	pinned *pinned // once Key has been called
}

// Key pins the image. Images with the same layers have the same key, whatever
// their names are.
func (o *op) Key(ctx context.Context, job schedule.Job) (schedule.Key, error) {
	p, err := o.s.pin(ctx, job, o.req)
	if err != nil {
		return schedule.Key{}, err
	}
	o.pinned = &p
	o.s.grant(job, o.req, p) // what is mounted already may need it, too
	key := schedule.Key{
		Digest: p.key(),
		Parts: []cache.Part{
			{Name: "image", Value: o.req.String()},
			{Name: "digest", Value: p.root.Digest.String()},
			{Name: "layers", Value: p.chain().String()},
		},
		Record: cache.Description{Kind: o.req.kind, Text: "pulled from " + o.pinnedName(p.root.Digest)},
	}
	if o.req.layout == nil {
		key.Describe = o.describe
	}
	return key, nil
}

// describe gives the layers that the registry has.
func (o *op) describe(job schedule.Job) (schedule.Result, error) {
	return layer.Remote(o.s.image(job, o.req, *o.pinned, o.pinnedName(o.pinned.root.Digest)))
}

func (o *op) pinnedName(d digest.Digest) string {
	if o.req.layout != nil {
		return o.req.String()
	}
	return o.req.ref.withDigest(d).String()
}

// Run fetches what is missing and unpacks it.
func (o *op) Run(ctx context.Context, job schedule.Job, _ []schedule.Result) ([]schedule.Result, error) {
	if o.pinned == nil {
		return nil, fmt.Errorf("%s was not pinned: %w", o.req, errdefs.ErrFailedPrecondition)
	}
	l, err := o.s.unpack(ctx, job, o.req, *o.pinned, o.pinnedName(o.pinned.root.Digest))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.req, err)
	}
	return []schedule.Result{l}, nil
}

func (s *Source) image(job schedule.Job, req request, p pinned, name string) layer.Image {
	img := layer.Image{Layers: s.lazyLayers(job, req, p), DiffIDs: p.config.RootFS.DiffIDs}
	img.Created, img.Description = p.describe(name)
	return img
}

func (s *Source) unpack(ctx context.Context, job schedule.Job, req request, p pinned, name string) (*layer.Layer, error) {
	ctx = s.cfg.Store.Context(ctx)
	from, err := s.remote(ctx, job, req) // for the sessions that wait now
	if err != nil {
		from = p.from
	}
	item := job.Progress.Begin("resolve " + name)
	for _, d := range p.documents() {
		if err := s.blobs.ensure(ctx, from, d, job.Progress); err != nil {
			return nil, err
		}
	}
	item.Done()
	img := s.image(job, req, p, name)
	img.Fetch = func(ctx context.Context, d ocispec.Descriptor) error {
		return s.blobs.ensure(ctx, from, d, job.Progress)
	}
	l, err := s.cfg.Layers.Unpack(ctx, img, job.Progress)
	if err != nil {
		return nil, err
	}
	return l, s.keepLayers(ctx, p.layers)
}

// keepLayers has the record keep blobs that are here, so that an image that
// stands on this one can be exported as it is.
func (s *Source) keepLayers(ctx context.Context, layers []ocispec.Descriptor) error {
	for _, d := range layers {
		if _, _, err := s.blobs.have(ctx, d.Digest); err != nil {
			return err
		}
	}
	return nil
}

// describe says what each layer is, going by the image's history.
func (p pinned) describe(name string) (created []time.Time, text []string) {
	fallback := time.Time{}
	if c := p.config.Created; c != nil {
		fallback = *c
	}
	for _, h := range p.config.History {
		if h.EmptyLayer {
			continue
		}
		at := fallback
		if h.Created != nil {
			at = *h.Created
		}
		created, text = append(created, at), append(text, h.CreatedBy)
	}
	for len(created) < len(p.layers) {
		created, text = append(created, fallback), append(text, "pulled from "+name)
	}
	return created[:len(p.layers)], text[:len(p.layers)]
}
