package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

type options struct {
	cases []benchCase
	runs  int
	dir   string // where the bench's temporary folder is made
	only  string // a daemon's name, "" for both
	data  int64  // bytes of the large image
}

// sample is what one run of a case took.
type sample struct {
	wall time.Duration
	cpu  time.Duration // of the daemon and everything below it
	peak int64         // bytes, see usage
	// fetched are bytes of images that are counted; 0 for others.
	fetched int64
}

// result holds a case's samples by daemon.
type result struct {
	benchCase
	samples map[string][]sample
}

// run measures all cases. What was measured before an error is returned with it.
func run(ctx context.Context, o options) (results []result, err error) {
	dir, err := os.MkdirTemp(o.dir, "kiln-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b, err := newBase(ctx, dir, o.data)
	if err != nil {
		return nil, err
	}
	defer func() {
		b.counted.Close()
		err = errors.Join(err, b.registry.stop())
	}()
	var daemons []*daemon
	defer func() {
		for _, d := range daemons {
			err = errors.Join(err, d.remove())
		}
	}()
	for _, kind := range slices.Concat(kinds, onContainerd) {
		if o.only != "" && kind.name != o.only || !o.needs(kind) {
			continue
		}
		d, err := kind.start(ctx, dir)
		if err != nil {
			return nil, err
		}
		daemons = append(daemons, d)
	}
	if len(daemons) == 0 {
		return nil, fmt.Errorf("no daemon is called %q", o.only)
	}
	if err := b.push(ctx, daemons[0]); err != nil {
		return nil, err
	}
	for _, c := range o.cases {
		mine := slices.DeleteFunc(slices.Clone(daemons), func(d *daemon) bool { return c.containerd != (d.containerd != nil) })
		r, err := c.measure(ctx, b, mine, o.runs)
		results = append(results, r)
		if err != nil {
			return results, fmt.Errorf("case %s: %w", c.name, err)
		}
	}
	return results, nil
}

// needs says whether a case runs on daemons of that kind.
func (o options) needs(k kind) bool {
	return slices.ContainsFunc(o.cases, func(c benchCase) bool { return c.containerd == (k.snapshotter != "") })
}

// measure runs one case on each daemon in turns, in alternating order.
func (c benchCase) measure(ctx context.Context, b *base, daemons []*daemon, runs int) (result, error) {
	r := result{benchCase: c, samples: map[string][]sample{}}
	turns := slices.Clone(daemons)
	for i := range runs {
		for _, d := range turns {
			if c.only != "" && c.only != d.name {
				continue
			}
			s, err := c.once(ctx, b, d)
			if err != nil {
				return r, fmt.Errorf("run %d on %s: %w", i+1, d.name, err)
			}
			r.samples[d.name] = append(r.samples[d.name], s)
			fmt.Fprintf(os.Stderr, "%-18s %-10s run %d: %v, cpu %v, peak %d MB, fetched %.1f MB\n", c.name, d.name, i+1,
				s.wall.Round(time.Millisecond), s.cpu.Round(time.Millisecond), s.peak>>20, float64(s.fetched)/1e6)
		}
		slices.Reverse(turns)
	}
	return r, nil
}

// once makes one sample. The case's repetitions are divided out.
func (c benchCase) once(ctx context.Context, b *base, d *daemon) (sample, error) {
	w, err := newWork(b, d)
	if err != nil {
		return sample{}, err
	}
	defer w.remove()
	if c.prepare != nil {
		if err := c.prepare(ctx, w); err != nil {
			return sample{}, fmt.Errorf("prepare: %w", err)
		}
		if err := w.finish(); err != nil {
			return sample{}, fmt.Errorf("prepare: %w", err)
		}
	}
	before, err := d.resetUsage()
	if err != nil {
		return sample{}, err
	}
	fetched := b.counted.All()
	start := time.Now()
	for range max(c.repeat, 1) {
		if err := c.timed(ctx, w); err != nil {
			return sample{}, err
		}
	}
	wall := time.Since(start)
	fetched = b.counted.All() - fetched
	after, err := d.usage()
	if err != nil {
		return sample{}, err
	}
	if err := w.finish(); err != nil {
		return sample{}, err
	}
	n := time.Duration(max(c.repeat, 1))
	return sample{wall: wall / n, cpu: (after.cpu - before.cpu) / n, peak: after.peak, fetched: fetched}, nil
}
