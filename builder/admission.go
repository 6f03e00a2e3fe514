package builder

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/kiln-build/kiln/builder/sandbox/meter"
	"github.com/kiln-build/kiln/builder/schedule"
)

// Up to this many steps for each processor run whatever the pressure: most wait for
// something else. While memory is short, it is one.
const crowdPerCPU = 8

// The machine is busy when some process had to wait for a processor for this share of
// the time since it was last looked, and short of memory when some had to wait for
// that. A look is good for lookAgain.
const (
	busyShare  = 0.8
	shortShare = 0.1
	lookAgain  = 100 * time.Millisecond
)

// admission lets a step begin unless so many run, and the machine has so much to do,
// that one more would only slow the others down. It is for the processes of all builds
// together.
type admission struct {
	cpus  int
	stall func(resource string) (time.Duration, bool) // since the start of the machine

	turn chan struct{} // held by the one that waits and is next

	mu      sync.Mutex
	running int
	ended   chan struct{} // closed and replaced when a step ends

	looked      time.Time
	cpu, memory time.Duration // then
	busy, short bool          // before that
}

func newAdmission() *admission {
	return &admission{
		cpus: runtime.GOMAXPROCS(0), stall: stalled,
		turn: make(chan struct{}, 1), ended: make(chan struct{}),
	}
}

// stalled reads how long some processes of the machine had to wait for a resource. It
// is false where the kernel doesn't tell.
func stalled(resource string) (time.Duration, bool) {
	p := meter.ReadPressure("/proc/pressure/" + resource)
	if p == nil || p.Some == nil || p.Some.Total == nil {
		return 0, false
	}
	return time.Duration(*p.Some.Total) * time.Microsecond, true
}

func (a *admission) wrap(op schedule.Op) schedule.Op { return admitted{op, a} }

type admitted struct {
	schedule.Op
	admission *admission
}

// Run implements schedule.Op.
func (o admitted) Run(ctx context.Context, job schedule.Job, inputs []schedule.Result) ([]schedule.Result, error) {
	if err := o.admission.enter(ctx); err != nil {
		return nil, err
	}
	defer o.admission.leave()
	return o.Op.Run(ctx, job, inputs)
}

// enter waits until the step may begin.
func (a *admission) enter(ctx context.Context) error {
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		ended := a.try()
		if ended == nil {
			return nil
		}
		select {
		case <-ended:
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// try counts the step, if it may begin; otherwise it returns what is closed when
// another one has ended.
func (a *admission) try() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running >= a.cpus {
		a.look()
		if a.short || a.busy && a.running >= crowdPerCPU*a.cpus {
			return a.ended
		}
	}
	a.running++
	return nil
}

// look finds out what the machine was short of since the last look.
func (a *admission) look() {
	since := time.Since(a.looked)
	if since < lookAgain {
		return
	}
	cpu, known := a.stall("cpu")
	memory, knownToo := a.stall("memory")
	first := a.looked.IsZero()
	share := func(stalled time.Duration) float64 { return float64(stalled) / float64(since) }
	a.busy = known && !first && share(cpu-a.cpu) > busyShare
	a.short = knownToo && !first && share(memory-a.memory) > shortShare
	a.looked, a.cpu, a.memory = time.Now(), cpu, memory
}

func (a *admission) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running--
	close(a.ended)
	a.ended = make(chan struct{})
}
