package snapshotter

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	cycles = flag.Int("cycles", 6, "build and run this often")
	seed   = flag.Uint64("cycles.seed", 0, "do the same as a run that printed this number")
)

// TestCycles builds and runs again and again, while images and records are
// removed and both daemons restarted at random. Nothing but what is killed may
// fail, and at the end nothing may be left.
func TestCycles(t *testing.T) {
	t.Parallel()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-cycles.seed %d", *seed)
	c := &cycle{bed: start(t), r: rand.New(rand.NewPCG(*seed, 0)), images: map[string]string{}, done: map[string]int{}}
	began := time.Now()
	for i := range *cycles {
		c.buildAndRun(i)
		c.disturb()
		c.runOne()
		if t.Failed() {
			t.Fatalf("in cycle %d, after %v", i, c.done)
		}
	}
	t.Logf("%d cycles in %v: %v", *cycles, time.Since(began).Round(time.Second), c.done)
	for name := range c.images {
		c.check(name)
	}
	c.empty()
}

type cycle struct {
	*bed
	r      *rand.Rand
	images map[string]string // what each says
	done   map[string]int
}

// buildAndRun builds an image with a name of few, on the base or on an image
// that was built before, and runs it.
func (c *cycle) buildAndRun(i int) {
	c.Helper()
	name := fmt.Sprintf("example.test/image%d:latest", c.r.IntN(5))
	from, says := "BASE", ""
	if old := c.pick(); old != "" && c.r.IntN(2) == 0 && len(c.images[old]) < 100 {
		from, says = old, c.images[old]
	}
	says += fmt.Sprintf("%d\n", i%7) // some are the same as before
	text := fmt.Sprintf("FROM %s\nRUN echo %d >> /says && head -c 300000 /dev/urandom > /data%d\nRUN rm -f /data%d /bin/wget\nCMD [\"cat\", \"/says\"]\n", from, i%7, i%3, (i+1)%3)
	args := []string{"--tag", name}
	if c.r.IntN(4) == 0 {
		args = append(args, "--no-cache")
	}
	c.build(text, args...)
	c.images[name] = says
	c.check(name)
	c.done["builds"]++
}

// pick is one of the images there are, "" if there are none.
func (c *cycle) pick() string {
	names := slices.Sorted(maps.Keys(c.images))
	if len(names) == 0 {
		return ""
	}
	return names[c.r.IntN(len(names))]
}

func (c *cycle) runOne() {
	c.Helper()
	if name := c.pick(); name != "" {
		c.check(name)
	}
}

// check runs an image.
func (c *cycle) check(name string) {
	c.Helper()
	c.done["runs"]++
	if out := c.container(name); out != c.images[name] {
		c.Errorf("%s says %q, not %q", name, out, c.images[name])
	}
}

// disturb does something that no image may mind.
func (c *cycle) disturb() {
	c.Helper()
	what, act := "nothing", func() {}
	switch c.r.IntN(10) {
	case 0, 1:
		what, act = "images removed", func() { c.removeImage() }
	case 2:
		what, act = "images removed at once", func() { c.removeImage("--sync") }
	case 3:
		what, act = "prunes of all", func() { c.kiln("prune", "--all") }
	case 4:
		what, act = "prunes", func() { c.kiln("prune") }
	case 5:
		what, act = "daemon restarts", func() { c.must(c.daemon.Stop()); c.daemon.Start(c) }
	case 6:
		what, act = "daemon kills", func() { c.must(c.daemon.Kill()); c.daemon.Start(c) }
	case 7:
		what, act = "kills during a build", c.killBuilding
	case 8:
		what, act = "containerd kills", func() { c.containerd.Restart(c) }
	}
	c.done[what]++
	act()
}

func (c *cycle) removeImage(args ...string) {
	c.Helper()
	if name := c.pick(); name != "" {
		c.ctr(append(append([]string{"images", "rm"}, args...), name)...)
		delete(c.images, name)
	}
}

// killBuilding kills the daemon while it builds and exports.
func (c *cycle) killBuilding() {
	c.Helper()
	text := "FROM BASE\n" + strings.Repeat("RUN head -c 500000 /dev/urandom >> /data\n", 5)
	build := c.building(text, "--no-cache", "--tag", "example.test/killed")
	c.must(build.Start())
	time.Sleep(c.time(1500 * time.Millisecond))
	c.must(c.daemon.Kill())
	_ = build.Wait() // an error, or it was done before
	c.daemon.Start(c)
	_, _ = c.try(c.containerd.Ctr("images", "rm", "example.test/killed:latest"))
}

func (c *cycle) time(limit time.Duration) time.Duration {
	return time.Duration(c.r.Int64N(int64(limit)))
}
