package builder

import (
	"context"
	"sync"

	"github.com/kiln-build/kiln/builder/export"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	digest "github.com/opencontainers/go-digest"
)

// preparation begins to make blobs of a build's layers while steps that follow
// still run: of those layers only that an exporter will ask for.
type preparation struct {
	layers *layer.Store
	mu     sync.Mutex
	steps  map[digest.Digest]bool
}

// prepare returns nil where no exporter needs blobs of the default compression.
func (b *Builder) prepare(targets []export.Target) *preparation {
	for _, t := range targets {
		compression := t.Attrs["compression"]
		if imageTypes[t.Type] && (compression == "" || compression == "gzip") && t.Attrs["compression-level"] == "" {
			return &preparation{layers: b.layers, steps: map[digest.Digest]bool{}}
		}
	}
	return nil
}

// imageTypes are the types of exporters whose outputs have blobs.
var imageTypes = map[string]bool{"image": true, "registry": true, "oci": true, "docker": true}

// expect notes the steps that the tree of a graph consists of.
func (p *preparation) expect(g *graph.Graph) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range g.Lineage() {
		p.steps[s.Digest] = true
	}
}

// wrap makes an op that begins with the blobs of what it made.
func (p *preparation) wrap(s *graph.Step, op schedule.Op) schedule.Op {
	if p == nil || s.Op.GetSource() != nil {
		return op
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.steps[s.Digest] {
		return op
	}
	return preparing{op, p.layers}
}

type preparing struct {
	schedule.Op
	layers *layer.Store
}

// Run implements schedule.Op.
func (p preparing) Run(ctx context.Context, job schedule.Job, inputs []schedule.Result) ([]schedule.Result, error) {
	results, err := p.Op.Run(ctx, job, inputs)
	for _, r := range results {
		if l, _ := r.(*layer.Layer); l != nil && err == nil {
			p.layers.Prepare(l)
		}
	}
	return results, err
}
