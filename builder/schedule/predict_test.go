package schedule

import (
	"maps"
	"slices"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
)

// prediction is what a build that is alone has to run.
type prediction struct {
	b    trial
	keys map[cache.Key]cache.ID
	have map[cache.ID]bool // now
	had  map[cache.ID]bool // when the build began
	// missed are the identities that no key led to.
	missed map[cache.ID]bool
	// stalled are the steps that wait for a run to be identified, and those on
	// them; foreseen the inputs that may be made before it is sure that they are
	// needed, with all that they need.
	stalled  map[*graph.Step]bool
	foreseen map[cache.ID]bool
	ids      map[*graph.Step]cache.ID
	hit      map[*graph.Step]bool
	vals     map[*graph.Step]int
	runs     []cache.ID
	loads    map[cache.ID]bool // what is needed and was there
}

// predict evaluates a build step by step, with a copy of the world's records.
func predict(w *world, b trial) *prediction {
	p := &prediction{b: b, keys: maps.Clone(w.keys), have: map[cache.ID]bool{}, missed: map[cache.ID]bool{},
		stalled: map[*graph.Step]bool{}, foreseen: map[cache.ID]bool{}, loads: map[cache.ID]bool{}, hit: map[*graph.Step]bool{}, ids: map[*graph.Step]cache.ID{}}
	for id := range w.records {
		p.have[id] = true
	}
	p.had = maps.Clone(p.have)
	for _, g := range b.graphs {
		p.vals, _ = b.m.naive(g)
		for _, s := range g.Steps {
			p.identify(s)
		}
		for _, s := range g.Steps {
			p.foresee(s)
		}
		p.need(g.Result.Step)
	}
	return p
}

// identify finds a step's identity; its inputs have been identified.
func (p *prediction) identify(s *graph.Step) {
	does := p.b.m.does[s.Digest]
	ins := does.inputsOf(s, p.ids)
	own := func(k cache.Key) cache.Key {
		if s.Meta.IgnoreCache {
			return cache.FreshKey(k, p.b.id)
		}
		return k
	}
	def := cache.DefinitionKey(does.keyDigest(s.Outputs), ins)
	for _, in := range s.Inputs {
		p.stalled[s] = p.stalled[s] || p.stalled[in.Step]
	}
	if id := p.keys[own(def)]; id != "" {
		p.ids[s], p.hit[s] = id, true
		return
	}
	key := def
	if slices.Contains(does.content, true) {
		for i, in := range s.Inputs {
			if does.content[i] {
				p.stalled[s] = p.stalled[s] || p.absent(in.Step)
				p.need(in.Step)
				ins[i].Content = contentOf(does.read(i, p.vals[in.Step]+in.Index))
			}
		}
		key = cache.ContentKey(does.keyDigest(s.Outputs), ins)
	}
	id := p.keys[own(key)]
	if id == "" {
		id = cache.ID(own(key))
		p.missed[id] = true
	}
	p.ids[s], p.hit[s] = id, !p.missed[id]
	p.keys[def], p.keys[own(key)], p.keys[key] = id, id, id
}

// need takes a step's result from the records, or runs it. A record that its
// own key doesn't lead to, since a newer one took that and has vanished, is only
// found when the step is about to run.
func (p *prediction) need(s *graph.Step) {
	id := p.ids[s]
	if p.have[id] {
		p.loads[id] = true
	}
	if p.have[id] && !p.missed[id] {
		return
	}
	delete(p.missed, id)
	for _, in := range s.Inputs {
		p.need(in.Step)
	}
	if p.have[id] {
		return
	}
	p.have[id] = true
	p.runs = append(p.runs, id)
}

// foresee notes what a step's inputs may be made for, while the step waits.
func (p *prediction) foresee(s *graph.Step) {
	waits := false
	for _, in := range s.Inputs {
		waits = waits || p.stalled[in.Step]
	}
	for i, in := range s.Inputs {
		if waits && p.b.m.does[s.Digest].content[i] && p.absent(in.Step) {
			p.allow(in.Step)
		}
	}
}

// absent tells whether a step had no result when the build began, as far as can
// be seen from its keys or, once that was tried, from its record.
func (p *prediction) absent(s *graph.Step) bool { return !p.hit[s] || !p.had[p.ids[s]] }

func (p *prediction) allow(s *graph.Step) {
	p.foreseen[p.ids[s]] = true
	for _, in := range s.Inputs {
		p.allow(in.Step)
	}
}

// fits tells whether what ran is what had to, and what could be foreseen.
func (p *prediction) fits(ran []cache.ID) bool {
	for _, id := range p.runs {
		if !slices.Contains(ran, id) {
			return false
		}
	}
	for _, id := range ran {
		if !slices.Contains(p.runs, id) && !p.foreseen[id] {
			return false
		}
	}
	return true
}
