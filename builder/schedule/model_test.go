package schedule

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// The model: a step's result is a number that depends on what the step is and
// on its inputs' results. Where an input counts by content, it depends on that
// number's remainder only, so that different inputs often have equal content;
// the selector says which remainder.

// modelStep is what a step does.
type modelStep struct {
	name     string
	content  []bool // by input
	selector []int  // by input
	source   int    // value of a step without inputs
	fails    bool
	panics   bool
	slow     time.Duration
	session  bool // needs a session while it runs
	pinSlow  time.Duration
	worked   bool
	nested   *graph.Graph // made inside of the step's run; may be nil
}

// value is a result, and where it comes from.
type value struct {
	n      int
	build  string // whose op made it
	inputs []*value
}

var (
	errFails  = errors.New("this step fails")
	errBroken = errors.New("the records are broken")
)

// model is a set of steps; several graphs can be made of it.
type model struct {
	steps []*graph.Step // inputs first
	does  map[digest.Digest]*modelStep
}

// modelConfig says what may be in a random model.
type modelConfig struct {
	steps    int
	failures bool
	nested   bool
}

// randomModel makes steps that often are the same as others, having the same
// name and inputs.
func randomModel(r *rand.Rand, cfg modelConfig) *model {
	m := &model{does: map[digest.Digest]*modelStep{}}
	nonce := r.Uint64()
	for i := range cfg.steps {
		does := &modelStep{name: fmt.Sprint("op", r.IntN(4)), session: r.IntN(6) == 0, worked: r.IntN(2) == 0}
		if r.IntN(3) == 0 {
			does.name = fmt.Sprint("own", i)
		}
		s := &graph.Step{Op: &pb.Op{}, Outputs: 1 + r.IntN(3), Platform: &pb.Platform{}}
		if i > 0 && r.IntN(4) > 0 {
			for range 1 + r.IntN(3) {
				in := m.steps[max(0, i-1-r.IntN(6))]
				s.Inputs = append(s.Inputs, graph.Output{Step: in, Index: r.IntN(in.Outputs)})
				does.content = append(does.content, r.IntN(2) == 0)
				does.selector = append(does.selector, r.IntN(2))
			}
		} else {
			does.source = r.IntN(8)
			does.pinSlow = time.Duration(r.IntN(3)) * 10 * time.Microsecond
		}
		if cfg.failures && r.IntN(2*cfg.steps) == 0 {
			does.fails, does.panics, does.name = true, r.IntN(2) == 0, "fails"
		}
		if r.IntN(2) == 0 {
			does.slow = time.Duration(r.IntN(30)) * 10 * time.Microsecond
		}
		if i > 0 && cfg.nested && r.IntN(4) == 0 {
			inner := r.IntN(i)
			does.nested = m.graph(inner, r.IntN(m.steps[inner].Outputs), nil)
		}
		s.Digest = digest.FromString(fmt.Sprint(nonce, i))
		s.Meta.Name = fmt.Sprint("step ", i)
		m.does[s.Digest] = does
		m.steps = append(m.steps, s)
	}
	return m
}

// graph makes a graph for an output of the i-th step, of steps of its own. The
// steps in fresh are to ignore the cache.
func (m *model) graph(i, index int, fresh map[digest.Digest]bool) *graph.Graph {
	needed := map[*graph.Step]bool{m.steps[i]: true}
	for j := i; j >= 0; j-- {
		for _, in := range m.steps[j].Inputs {
			needed[in.Step] = needed[in.Step] || needed[m.steps[j]]
		}
	}
	g := &graph.Graph{}
	copies := map[*graph.Step]*graph.Step{}
	for _, s := range m.steps[:i+1] {
		if !needed[s] {
			continue
		}
		c := *s
		c.Meta.IgnoreCache = fresh[s.Digest]
		c.Inputs = nil
		for _, in := range s.Inputs {
			c.Inputs = append(c.Inputs, graph.Output{Step: copies[in.Step], Index: in.Index})
		}
		copies[s] = &c
		g.Steps = append(g.Steps, &c)
	}
	g.Result = graph.Output{Step: copies[m.steps[i]], Index: index}
	return g
}

// randomFresh chooses steps that are to ignore the cache, among those that are
// like no other.
func (m *model) randomFresh(r *rand.Rand) map[digest.Digest]bool {
	fresh := map[digest.Digest]bool{}
	for _, s := range m.steps {
		fresh[s.Digest] = m.does[s.Digest].name[:2] == "ow" && r.IntN(4) == 0
	}
	return fresh
}

// naive evaluates a graph without any cache.
func (m *model) naive(g *graph.Graph) (map[*graph.Step]int, error) {
	values := map[*graph.Step]int{}
	for _, s := range g.Steps {
		does := m.does[s.Digest]
		if does.fails {
			return nil, errFails
		}
		var inputs []int
		for _, in := range s.Inputs {
			inputs = append(inputs, values[in.Step]+in.Index)
		}
		values[s] = does.value(inputs)
		if g := does.nested; g != nil {
			inner, err := m.naive(g)
			if err != nil {
				return nil, err
			}
			values[s] = does.around(values[s], inner[g.Result.Step]+g.Result.Index)
		}
	}
	return values, nil
}

func (d *modelStep) value(inputs []int) int {
	v := d.source
	for i, in := range inputs {
		if d.content[i] {
			in = d.read(i, in)
		}
		v = (v*31+in)*7 + d.selector[i]
	}
	for _, c := range d.name {
		v = v*7 + int(c)
	}
	return v & 0xffffff
}

// around is the value of a step inside of which another is made.
func (d *modelStep) around(own, inner int) int { return (own*31 + inner) & 0xffffff }

// read is what the step reads of an input by whose content it counts.
func (d *modelStep) read(i, n int) int { return n % (3 + d.selector[i]) }

// keyDigest covers what the step is, but for its inputs.
func (d *modelStep) keyDigest(outputs int) digest.Digest {
	inner := ""
	if g := d.nested; g != nil {
		inner = fmt.Sprint(g.Result.Step.Digest, g.Result.Index)
	}
	return digest.FromString(fmt.Sprint(d.name, d.source, outputs, d.content, inner))
}

// modelOps are the ops of one build.
type modelOps struct {
	s     *Scheduler
	w     *world
	m     *model
	build string
}

func (o modelOps) Op(s *graph.Step) (Op, error) { return &modelOp{o, o.m.does[s.Digest], s}, nil }

type modelOp struct {
	modelOps
	does *modelStep
	step *graph.Step
}

func (o *modelOp) Key(ctx context.Context, _ Job) (Key, error) {
	o.w.pins(o.build, 1)
	defer o.w.pins(o.build, -1)
	if err := pause(ctx, o.does.pinSlow); err != nil {
		return Key{}, err
	}
	k := Key{Digest: o.does.keyDigest(o.step.Outputs), Worked: o.does.worked}
	for i := range o.step.Inputs {
		in := InputKey{Selector: fmt.Sprint(o.does.selector[i])}
		if o.does.content[i] {
			in.Content = func(ctx context.Context, _ Job, r Result) (digest.Digest, error) {
				return contentOf(o.does.read(i, r.(*value).n)), pause(ctx, o.does.slow/8)
			}
		}
		k.Inputs = append(k.Inputs, in)
	}
	return k, nil
}

func contentOf(n int) digest.Digest { return digest.FromString(fmt.Sprint(n)) }

func (o *modelOp) Run(ctx context.Context, job Job, inputs []Result) ([]Result, error) {
	o.w.ran(o.build, o.step)
	job.Progress.Log(event.Stdout, []byte("begin"))
	if err := o.work(ctx, job); err != nil {
		return nil, err
	}
	v := value{build: o.build}
	var numbers []int
	for _, in := range inputs {
		v.inputs = append(v.inputs, in.(*value))
		numbers = append(numbers, in.(*value).n)
	}
	n := o.does.value(numbers)
	if o.does.nested != nil {
		inner, err := o.solve(ctx, job)
		if err != nil {
			return nil, err
		}
		n = o.does.around(n, inner.n)
	}
	results := make([]Result, o.step.Outputs)
	for i := range results {
		out := v
		out.n = n + i
		results[i] = &out
	}
	job.Progress.Log(event.Stdout, []byte("end"))
	return results, nil
}

// solve makes the graph inside of the step.
func (o *modelOp) solve(ctx context.Context, job Job) (*value, error) {
	ops := o.modelOps
	ops.build = o.w.unique(o.build)
	b := o.s.NewBuild(BuildConfig{ID: ops.build, Ops: ops, Sink: event.Discard, Sessions: job.Sessions})
	defer b.Close()
	r, err := b.Result(ctx, o.does.nested)
	if err != nil {
		return nil, err
	}
	return r.(*value), nil
}

// work takes its time, and fails where the step is to fail or loses all the
// sessions that it could use.
func (o *modelOp) work(ctx context.Context, job Job) error {
	sessions := []string{""}
	if o.does.session {
		sessions = job.Sessions()
	}
	for _, id := range sessions {
		var lost <-chan struct{}
		if id != "" {
			lost = o.w.session(id)
		}
		select {
		case <-time.After(o.does.slow):
			return o.fail()
		case <-ctx.Done():
			time.Sleep(stopping)
			return context.Cause(ctx)
		case <-lost:
		}
	}
	return fmt.Errorf("no session: %w", errdefs.ErrUnavailable)
}

func (o *modelOp) fail() error {
	if o.does.panics {
		panic(errFails.Error())
	}
	if o.does.fails {
		return errFails
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		time.Sleep(stopping)
		return context.Cause(ctx)
	}
}

// stopping is how long ops take to stop.
const stopping = time.Microsecond

// inputsOf are a step's inputs as they count in keys.
func (d *modelStep) inputsOf(s *graph.Step, ids map[*graph.Step]cache.ID) []cache.Input {
	var ins []cache.Input
	for i, in := range s.Inputs {
		ins = append(ins, cache.Input{Record: ids[in.Step], Output: in.Index, Selector: fmt.Sprint(d.selector[i])})
	}
	return ins
}
