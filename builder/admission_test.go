package builder

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-build/kiln/builder/schedule"
)

// machine says how much of the time processes had to wait.
type machine struct {
	mu    sync.Mutex
	share map[string]float64
	since time.Time
	total map[string]time.Duration
}

func newMachine() *machine {
	return &machine{share: map[string]float64{}, since: time.Now(), total: map[string]time.Duration{}}
}

func (m *machine) set(resource string, share float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count()
	m.share[resource] = share
}

func (m *machine) count() {
	for r, share := range m.share {
		m.total[r] += time.Duration(share * float64(time.Since(m.since)))
	}
	m.since = time.Now()
}

func (m *machine) stall(resource string) (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count()
	return m.total[resource], true
}

// sleeper is an op that counts those that run at the same time.
type sleeper struct {
	schedule.Op
	mu           sync.Mutex
	now, highest int
}

func (s *sleeper) Run(context.Context, schedule.Job, []schedule.Result) ([]schedule.Result, error) {
	s.mu.Lock()
	s.now++
	s.highest = max(s.highest, s.now)
	s.mu.Unlock()
	time.Sleep(time.Second)
	s.mu.Lock()
	s.now--
	s.mu.Unlock()
	return nil, nil
}

// runAll runs n steps at once, under what wrap puts around them, and returns how many
// ran at the same time.
func runAll(wrap func(schedule.Op) schedule.Op, n int) int {
	s := &sleeper{}
	op := wrap(s)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { op.Run(context.Background(), schedule.Job{}, nil) }) //nolint:errcheck // it has none
	}
	wg.Wait()
	return s.highest
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		cpu, memory float64
		least, most int
	}{
		{"idle", 0.3, 0, 100, 100},
		{"busy", 0.95, 0, 16, 17},
		{"short of memory", 0, 0.5, 2, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine()
			m.set("cpu", c.cpu)
			m.set("memory", c.memory)
			a := newAdmission()
			a.cpus, a.stall = 2, m.stall
			a.look()
			time.Sleep(time.Second)
			if got := runAll(a.wrap, 100); got < c.least || got > c.most {
				t.Errorf("%s: %d steps ran at the same time", c.name, got)
			}
		})
	}
}

// TestAdmissionFollows: those that wait begin when the machine has room, although none
// of those that run ends.
func TestAdmissionFollows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.set("cpu", 1)
		a := newAdmission()
		a.cpus, a.stall = 1, m.stall
		a.look()
		time.Sleep(time.Second)
		for range crowdPerCPU {
			if err := a.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one too many: %v", err)
		}
		time.AfterFunc(time.Second, func() { m.set("cpu", 0) })
		began := time.Now()
		if err := a.enter(t.Context()); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// TestPressureOfThisMachine: the kernel's files are understood, where it has them.
func TestPressureOfThisMachine(t *testing.T) {
	t.Parallel()
	before, ok := stalled("cpu")
	after, still := stalled("cpu")
	if ok != still || after < before {
		t.Errorf("%v (%v), then %v (%v)", before, ok, after, still)
	}
	if _, ok := stalled("nothing"); ok {
		t.Error("pressure on nothing")
	}
}
