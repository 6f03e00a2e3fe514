package meter

import (
	"sync"
	"time"

	"github.com/kiln-build/kiln/builder/event/usage"
)

// firstSample is when a meter samples for the first time; each further time is
// twice as late, so that a long run has few samples.
const firstSample = 2 * time.Second

// Meter samples a cgroup while its processes run.
type Meter struct {
	cgroup, netns string
	before        usage.Network // of the namespace, which others may have used
	report        func(usage.Sample)

	stop   chan struct{}
	ticker sync.WaitGroup
}

// Start begins to sample a cgroup and, unless netns is "", the network namespace
// of that file. The cgroup need not be there yet. report is called from one
// goroutine at a time.
func Start(cgroup, netns string, report func(usage.Sample)) *Meter {
	m := &Meter{cgroup: cgroup, netns: netns, report: report, stop: make(chan struct{})}
	if n := m.network(); n != nil {
		m.before = *n
	}
	m.ticker.Go(m.run)
	return m
}

func (m *Meter) run() {
	for wait := firstSample; ; wait *= 2 {
		select {
		case <-time.After(wait):
			m.sample()
		case <-m.stop:
			return
		}
	}
}

// Stop reports the last sample, unless the cgroup is not there. The cgroup has to
// outlast the call.
func (m *Meter) Stop() {
	close(m.stop)
	m.ticker.Wait()
	m.sample()
}

func (m *Meter) sample() {
	s := Read(Root, m.cgroup)
	if n := m.network(); n != nil {
		s.Network = since(*n, m.before)
	}
	if s.CPU != nil || s.Memory != nil || s.Network != nil {
		m.report(s)
	}
}

// network is nil where it can't be read: it is somebody else's, or gone.
func (m *Meter) network() *usage.Network {
	if m.netns == "" {
		return nil
	}
	n, err := ReadNetwork(m.netns)
	if err != nil {
		return nil
	}
	return n
}
