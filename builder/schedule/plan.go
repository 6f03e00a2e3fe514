package schedule

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
)

// plan drives one graph of a build to its result. One goroutine, the one that
// calls run, owns the nodes and decides; what blocks happens in goroutines of
// their own, which answer through the channel of answers.
type plan struct {
	b       *Build
	nodes   []*node // inputs first
	root    *node
	ready   []*node // to be looked at again
	answers chan answer
	jobs    sync.WaitGroup
	busy    int      // jobs that have not answered
	waiting []func() // jobs that are to begin when others have answered
}

// maxJobs is how many jobs of a plan are under way: a graph may have thousands
// of steps that could begin, and each takes the memory of goroutines.
const maxJobs = 256

// answer is the outcome of a job, to be taken over by the loop.
type answer struct {
	node *node
	err  error
	take func() error
}

func newPlan(b *Build, g *graph.Graph) *plan {
	p := &plan{b: b, answers: make(chan answer)}
	byStep := make(map[*graph.Step]*node, len(g.Steps))
	for _, s := range g.Steps {
		n := &node{step: s, unidentified: len(s.Inputs), unfinished: len(s.Inputs)}
		n.content = make([]cache.Input, len(s.Inputs))
		n.digesting = make([]bool, len(s.Inputs))
		for _, in := range s.Inputs {
			i := byStep[in.Step]
			n.inputs = append(n.inputs, i)
			i.users = append(i.users, n)
		}
		byStep[s] = n
		p.nodes = append(p.nodes, n)
	}
	p.root = byStep[g.Result.Step]
	return p
}

// run returns when the root's results are there, a step has failed, or ctx has
// ended; in all cases none of the plan's goroutines is left.
func (p *plan) run(ctx context.Context) ([]Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer p.drain(cancel)
	for _, n := range p.nodes {
		if err := p.start(ctx, n); err != nil {
			return nil, p.b.failed(n.step, err)
		}
	}
	p.want(p.root)
	for p.root.state != stateDone {
		if n := len(p.ready); n > 0 {
			next := p.ready[n-1]
			p.ready = p.ready[:n-1]
			if err := p.advance(ctx, next); err != nil {
				return nil, p.b.failed(next.step, err)
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case a := <-p.answers:
			p.answered()
			if a.err == nil {
				a.err = a.take()
			}
			if a.err != nil {
				return nil, p.b.failed(a.node.step, a.err)
			}
			p.ready = append(p.ready, a.node)
		}
	}
	p.conclude()
	return p.root.results, nil
}

// conclude reports on the nodes that were not needed.
func (p *plan) conclude() {
	for _, n := range p.nodes {
		switch {
		case n.state == stateIdentified && !n.hit, n.state == stateNeeded:
			p.b.vertices.cached(n.step.Digest, n.key.Worked)
		case n.state == stateRunning:
			p.b.vertices.spare(n.step.Digest)
		}
	}
}

// drain ends the jobs that are left and waits for them.
func (p *plan) drain(cancel context.CancelFunc) {
	cancel()
	go func() {
		p.jobs.Wait()
		close(p.answers)
	}()
	for range p.answers {
	}
}

// job runs f in a goroutine, soon; what f returns is called by the loop.
func (p *plan) job(n *node, f func() (func() error, error)) {
	begin := func() {
		p.jobs.Go(func() {
			a := answer{node: n}
			defer func() {
				if r := recover(); r != nil {
					a.err = panicked(r)
				}
				p.answers <- a
			}()
			a.take, a.err = f()
		})
	}
	if p.busy == maxJobs {
		p.waiting = append(p.waiting, begin)
		return
	}
	p.busy++
	begin()
}

// answered begins the next job.
func (p *plan) answered() {
	if len(p.waiting) == 0 {
		p.busy--
		return
	}
	next := p.waiting[0]
	p.waiting[0], p.waiting = nil, p.waiting[1:]
	next()
}

// start finds out what a step is: at once where that can't block, else in a
// job.
func (p *plan) start(ctx context.Context, n *node) error {
	known := func(op Op, key Key) error {
		if len(key.Inputs) != len(n.inputs) {
			return fmt.Errorf("internal error: key has %d inputs, step %d", len(key.Inputs), len(n.inputs))
		}
		n.op, n.key, n.pinned = op, key, true
		return nil
	}
	if len(n.inputs) > 0 {
		op, key, err := p.b.key(ctx, n.step)
		if err != nil {
			return err
		}
		return known(op, key)
	}
	p.job(n, func() (func() error, error) {
		op, key, err := p.b.pin(ctx, n.step)
		return func() error { return known(op, key) }, err
	})
	return nil
}

// want says that a node's results are needed.
func (p *plan) want(n *node) {
	if !n.wanted {
		n.wanted = true
		p.ready = append(p.ready, n)
	}
}

// advance takes a node as far as it can go now.
func (p *plan) advance(ctx context.Context, n *node) error {
	for {
		before := n.state
		if err := p.step(ctx, n); err != nil {
			return err
		}
		if n.state == before {
			return nil
		}
	}
}

func (p *plan) step(ctx context.Context, n *node) error {
	switch n.state {
	case stateOpen:
		if n.pinned && n.unidentified == 0 {
			return p.define(n)
		}
		p.foresee(n)
	case stateContent:
		return p.digest(ctx, n)
	case stateIdentified:
		if n.wanted {
			return p.load(ctx, n)
		}
	case stateNeeded:
		if n.unfinished == 0 {
			p.runStep(ctx, n)
		}
	case stateRunning:
		if n.ran {
			p.done(n)
		}
	}
	return nil
}

// define looks the definition key up.
func (p *plan) define(n *node) error {
	counted := false
	for i, in := range n.inputs {
		n.content[i] = cache.Input{Record: in.id, Output: n.step.Inputs[i].Index, Selector: n.key.Inputs[i].Selector}
		counted = counted || n.byContent(i)
	}
	n.defKey = cache.DefinitionKey(n.key.Digest, n.content)
	id, err := p.b.lookup(n.step, n.defKey)
	if err != nil {
		return err
	}
	if id != "" {
		p.identified(n, id, true)
		return nil
	}
	if counted {
		n.to(stateContent)
		for i, in := range n.inputs {
			if n.byContent(i) {
				p.want(in)
				if !in.hit {
					p.stall(n)
				}
			}
		}
		return nil
	}
	p.identified(n, p.b.identity(n.step, n.defKey), false)
	return nil
}

// stall marks the node and all that stand on it.
func (p *plan) stall(n *node) {
	for marked := []*node{n}; len(marked) > 0; {
		n, marked = marked[len(marked)-1], marked[:len(marked)-1]
		if !n.stalled {
			n.stalled = true
			p.ready = append(p.ready, n)
			marked = append(marked, n.users...)
		}
	}
}

// foresee wants the inputs whose content a stalled node will most likely need,
// so that they are made at the same time: an input that has no record has
// hardly been part of a key that is known.
func (p *plan) foresee(n *node) {
	if !n.stalled || !n.pinned {
		return
	}
	for i, in := range n.inputs {
		if n.byContent(i) && in.state >= stateIdentified && !in.hit {
			p.want(in)
		}
	}
}

// digest digests the content of the inputs that are there, and looks the
// content key up when all are.
func (p *plan) digest(ctx context.Context, n *node) error {
	missing := false
	for i, in := range n.inputs {
		if !n.byContent(i) || n.content[i].Content != "" {
			continue
		}
		missing = true
		if in.state == stateDone && !n.digesting[i] {
			n.digesting[i] = true
			result := in.results[n.step.Inputs[i].Index]
			p.job(n, func() (func() error, error) {
				d, err := n.key.Inputs[i].Content(ctx, p.b.job(n.step), result)
				if err != nil {
					return nil, &ContentError{Input: i, Result: result, Err: err}
				}
				return func() error { n.content[i].Content = d; return nil }, nil
			})
		}
	}
	if missing {
		return nil
	}
	key := cache.ContentKey(n.key.Digest, n.content)
	id, err := p.b.lookup(n.step, key)
	if err != nil {
		return err
	}
	if id == "" {
		p.identified(n, p.b.identity(n.step, key), false)
		return nil
	}
	if err := p.b.s.records.Bind(id, n.defKey); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	p.identified(n, id, true)
	return nil
}

func (p *plan) identified(n *node, id cache.ID, hit bool) {
	n.to(stateIdentified)
	n.id, n.hit = id, hit
	if hit {
		p.b.vertices.cached(n.step.Digest, n.key.Worked)
	}
	for _, u := range n.users {
		if u.unidentified--; u.unidentified == 0 || u.stalled {
			p.ready = append(p.ready, u)
		}
	}
}

// load takes the results from the cache, or asks for those of the inputs.
func (p *plan) load(ctx context.Context, n *node) error {
	if n.hit {
		results, err := p.b.s.records.Load(ctx, n.id)
		if err == nil && len(results) == n.step.Outputs {
			n.results = results
			p.done(n)
			return nil
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		n.hit, n.lost = false, true
	}
	n.to(stateNeeded)
	for _, in := range n.inputs {
		p.want(in)
	}
	return nil
}

func (p *plan) runStep(ctx context.Context, n *node) {
	n.to(stateRunning)
	p.b.vertices.run(n.step.Digest)
	keys := []cache.Key{n.defKey, cache.Key(n.id)}
	if n.countedByContent() {
		keys = append(keys, cache.ContentKey(n.key.Digest, n.content))
	}
	w := work{id: n.id, step: n.step, op: n.op, key: n.key, keys: keys, inputs: n.inputResults(), content: n.content, parents: n.parents(), lost: n.lost}
	p.job(n, func() (func() error, error) {
		results, err := p.b.s.do(ctx, p.b, w)
		if err == nil && len(results) != n.step.Outputs {
			err = fmt.Errorf("internal error: step made %d outputs, not %d", len(results), n.step.Outputs)
		}
		return func() error { n.results, n.ran = results, true; return nil }, err
	})
}

func (p *plan) done(n *node) {
	n.to(stateDone)
	for _, u := range n.users {
		u.unfinished--
		p.ready = append(p.ready, u)
	}
}

func (n *node) countedByContent() bool {
	for i := range n.content {
		if n.content[i].Content != "" {
			return true
		}
	}
	return false
}

// parents are the records that a run of the node stands on.
func (n *node) parents() []cache.ID {
	var ids []cache.ID
	seen := map[cache.ID]bool{}
	for _, in := range n.inputs {
		if !seen[in.id] {
			seen[in.id] = true
			ids = append(ids, in.id)
		}
	}
	return ids
}
