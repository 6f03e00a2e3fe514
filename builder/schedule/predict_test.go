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
	have map[cache.ID]bool
	// missed are the identities that no key led to.
	missed map[cache.ID]bool
	ids    map[*graph.Step]cache.ID
	vals   map[*graph.Step]int
	runs   []cache.ID
}

// predict evaluates a build step by step, with a copy of the world's records.
func predict(w *world, b trial) *prediction {
	p := &prediction{b: b, keys: maps.Clone(w.keys), have: map[cache.ID]bool{}, missed: map[cache.ID]bool{}, ids: map[*graph.Step]cache.ID{}}
	for id := range w.records {
		p.have[id] = true
	}
	for _, g := range b.graphs {
		p.vals, _ = b.m.naive(g)
		for _, s := range g.Steps {
			p.identify(s)
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
	if id := p.keys[own(def)]; id != "" {
		p.ids[s] = id
		return
	}
	key := def
	if slices.Contains(does.content, true) {
		for i, in := range s.Inputs {
			if does.content[i] {
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
	p.ids[s] = id
	p.keys[def], p.keys[own(key)], p.keys[key] = id, id, id
}

// need takes a step's result from the records, or runs it. A record that its
// own key doesn't lead to, since a newer one took that and has vanished, is only
// found when the step is about to run.
func (p *prediction) need(s *graph.Step) {
	id := p.ids[s]
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
