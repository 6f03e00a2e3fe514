package schedule

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
	digest "github.com/opencontainers/go-digest"
)

var (
	modelBuilds = flag.Int64("model.builds", 8000, "how many random builds TestModel makes")
	modelSeed   = flag.Uint64("model.seed", 0, "the seed that TestModel begins with")
)

// TestModel compares random builds with the naive evaluation: some at the same
// time, cancelled, failing, with records that vanish or are broken. Time is
// virtual, and no goroutine may be left.
func TestModel(t *testing.T) {
	var seed atomic.Uint64
	var builds atomic.Int64
	seed.Store(*modelSeed)
	for range runtime.GOMAXPROCS(0) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for builds.Load() < *modelBuilds && !t.Failed() {
				s := seed.Add(1) - 1
				synctest.Test(t, func(t *testing.T) { builds.Add(explore(t, s)) })
			}
		})
	}
}

// scenario is one random world and the builds in it.
type scenario struct {
	r       *rand.Rand
	w       *world
	s       *Scheduler
	models  []*model
	seed    uint64
	vanish  bool // records vanish while builds run
	partial bool // of those that vanish keys may be left
	lonely  bool // one build at a time, of one graph, undisturbed
	cancels bool
}

// explore tries one world and tells how many builds it had.
func explore(t *testing.T, seed uint64) (builds int64) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld()
	x := &scenario{r: r, w: w, s: New(w), seed: seed, lonely: r.IntN(3) == 0}
	x.vanish = !x.lonely && r.IntN(2) == 0
	x.partial = r.IntN(2) == 0
	x.cancels = !x.lonely && r.IntN(2) == 0
	if !x.lonely && r.IntN(6) == 0 {
		broken := rand.New(rand.NewPCG(seed, 2))
		w.breaks = func() bool { return broken.IntN(100) == 0 }
	}
	for range 1 + r.IntN(2) {
		cfg := modelConfig{steps: 1 + r.IntN(14), failures: !x.lonely && r.IntN(4) == 0, nested: !x.lonely && r.IntN(2) == 0}
		x.models = append(x.models, randomModel(r, cfg))
	}
	w.waiters = func(id cache.ID) int {
		x.s.mu.Lock()
		defer x.s.mu.Unlock()
		return x.s.runs[id].waiters
	}
	stop := make(chan struct{})
	if x.vanish {
		go w.forgetting(rand.New(rand.NewPCG(seed, 3)), x.partial, stop)
	}
	for range 1 + r.IntN(5) {
		builds += x.round()
	}
	close(stop)
	x.s.Close()
	for _, err := range w.end() {
		t.Errorf("seed %d: %v", seed, err)
	}
	return builds
}

// round makes some builds at the same time.
func (x *scenario) round() (builds int64) {
	if x.r.IntN(2) == 0 {
		x.w.forget(x.r, x.partial)
	}
	builds = 1
	if !x.lonely {
		builds += int64(x.r.IntN(4))
	}
	var wg sync.WaitGroup
	for i := range builds {
		b := x.random(i)
		if x.lonely {
			x.predicted(b)
			continue
		}
		wg.Go(func() { x.build(b) })
	}
	wg.Wait()
	time.Sleep(100 * stopping) // what builds inside of steps needs ends first
	if n := x.w.underway(); n > 0 {
		x.w.complain("%d steps are running, and no build", n)
	}
	return builds
}

// trial is one build.
type trial struct {
	id       string
	m        *model
	fresh    map[digest.Digest]bool
	graphs   []*graph.Graph
	parallel bool          // all graphs at the same time
	begins   time.Duration // begins so late
	cancel   time.Duration // is cancelled then, never if 0
}

func (x *scenario) random(i int64) trial {
	r := x.r
	m := x.models[r.IntN(len(x.models))]
	b := trial{id: fmt.Sprintf("%d-%d-%d", x.seed, i, r.Uint64()), m: m, fresh: m.randomFresh(r), parallel: r.IntN(2) == 0}
	graphs := 1
	if !x.lonely {
		graphs += r.IntN(3)
		b.begins = time.Duration(r.IntN(20)) * 10 * time.Microsecond
	}
	if x.cancels && r.IntN(3) == 0 {
		b.cancel = time.Duration(1+r.IntN(60)) * 10 * time.Microsecond
	}
	for j := range graphs {
		root := len(m.steps) - 1
		if j > 0 {
			root = r.IntN(len(m.steps))
		}
		b.graphs = append(b.graphs, m.graph(root, r.IntN(m.steps[root].Outputs), b.fresh))
	}
	return b
}

// predicted makes a build and checks that exactly those steps ran that had to, and
// that no result was taken from the records that wasn't needed.
func (x *scenario) predicted(b trial) {
	p := predict(x.w, b)
	x.w.past()
	x.build(b)
	time.Sleep(2 * stopping) // what was begun ahead and not needed may still be there
	ran, loaded := x.w.past()
	if !p.fits(ran) {
		x.w.complain("%s: %d steps ran, %d had to", b.id, len(ran), len(p.runs))
	}
	for _, id := range loaded {
		if !p.loads[id] && !p.foreseen[id] {
			x.w.complain("%s: the result of %s was loaded, and nobody needs it", b.id, id)
		}
	}
}

// build makes a build and checks what comes of it.
func (x *scenario) build(b trial) {
	time.Sleep(b.begins)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var cancelled atomic.Bool
	var client sync.WaitGroup
	defer client.Wait()
	done := make(chan struct{})
	defer close(done)
	if b.cancel > 0 {
		client.Go(func() {
			select {
			case <-done:
				return
			case <-time.After(b.cancel):
			}
			cancelled.Store(true)
			close(x.w.session(b.id)) // a client that goes away loses its session first
			time.Sleep(10 * time.Microsecond)
			cancel()
		})
	}
	sink := newWatch(x.w, b.id)
	sink.simple, sink.calm = !x.vanish && !x.partial && len(b.graphs) == 1, !x.cancels && x.w.breaks == nil
	build := x.s.NewBuild(BuildConfig{
		ID: b.id, Ops: modelOps{x.s, x.w, b.m, b.id}, Sink: sink, Sessions: func() []string { return []string{b.id} },
	})
	failed := atomic.Bool{}
	one := func(g *graph.Graph) {
		r, err := build.Result(ctx, g)
		if err != nil {
			failed.Store(true)
		}
		if !cancelled.Load() {
			x.check(b, g, r, err)
		}
	}
	var wg sync.WaitGroup
	for _, g := range b.graphs {
		if b.parallel {
			wg.Go(func() { one(g) })
		} else {
			one(g)
		}
	}
	wg.Wait()
	build.Close()
	if n := x.w.pins(b.id, 0); n > 0 {
		x.w.complain("%s: %d steps are being pinned after the end", b.id, n)
	}
	sink.end(!failed.Load())
}

// check compares what a build gave with the naive evaluation.
func (x *scenario) check(b trial, g *graph.Graph, r Result, err error) {
	if errors.Is(err, errBroken) && x.w.breaks != nil {
		return
	}
	want, wantErr := b.m.naive(g)
	switch {
	case wantErr != nil && err == nil:
		x.w.complain("%s succeeded, want %v", b.id, wantErr)
	case wantErr != nil && !strings.Contains(err.Error(), wantErr.Error()):
		x.w.complain("%s failed with %v, want %v", b.id, err, wantErr)
	case wantErr == nil && err != nil:
		x.w.complain("%s failed with %v", b.id, err)
	case err == nil:
		if n := want[g.Result.Step] + g.Result.Index; r.(*value).n != n {
			x.w.complain("%s gave %d, want %d", b.id, r.(*value).n, n)
		}
		x.checkOrigin(b, g.Result.Step, r.(*value))
	}
}

// checkOrigin checks that what is to ignore the cache was made by this build,
// and so was what it stands on, unless that counts by its content.
func (x *scenario) checkOrigin(b trial, s *graph.Step, v *value) {
	if s.Meta.IgnoreCache && v.build != b.id {
		x.w.complain("%s: %s was to ignore the cache, and is of %s", b.id, s.Meta.Name, v.build)
	}
	for i, in := range s.Inputs {
		if !b.m.does[s.Digest].content[i] {
			x.checkOrigin(b, in.Step, v.inputs[i])
		}
	}
}
