package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// measure is one column of the table: a figure of a sample in the unit of its title.
type measure struct {
	title string
	of    func(sample) float64
}

var measures = []measure{
	{"wall s", func(s sample) float64 { return s.wall.Seconds() }},
	{"cpu s", func(s sample) float64 { return s.cpu.Seconds() }},
	{"peak MB", func(s sample) float64 { return float64(s.peak) / 1e6 }},
}

// printTable writes for each case and measure the median of each daemon, and
// the second's divided by the first's.
func printTable(out io.Writer, results []result) error {
	if len(results) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 1, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "\t")
	for _, m := range measures {
		fmt.Fprintf(table, "|\t%s\t\t\t", m.title)
	}
	fmt.Fprint(table, "\n\t")
	for range measures {
		fmt.Fprintf(table, "|\t%s\t%s\tratio\t", kinds[0].name, kinds[1].name)
	}
	fmt.Fprintln(table)
	for _, r := range results {
		fmt.Fprintf(table, "%s\t", r.name)
		for _, m := range measures {
			theirs, ours := r.median(kinds[0].name, m), r.median(kinds[1].name, m)
			fmt.Fprintf(table, "|\t%s\t%s\t%s\t", figure(theirs), figure(ours), figure(ours/theirs))
		}
		fmt.Fprintln(table)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nMedians. cpu: the daemon and the steps it ran, not the client. peak: the highest resident")
	fmt.Fprintln(out, "size of the daemon and of what still runs below it, not of steps that ended.")
	for _, r := range results {
		fmt.Fprintf(out, "%s: %s\n", r.name, r.what)
		fetched := func(k kind) float64 {
			return r.median(k.name, measure{of: func(s sample) float64 { return float64(s.fetched) / 1e6 }})
		}
		if theirs, ours := fetched(kinds[0]), fetched(kinds[1]); theirs > 0 || ours > 0 {
			fmt.Fprintf(out, "    fetched from the registry: %s %s MB, %s %s MB\n", kinds[0].name, figure(theirs), kinds[1].name, figure(ours))
		}
	}
	return nil
}

// median returns the median of a measure over a daemon's samples, NaN without any.
func (r result) median(daemon string, m measure) float64 {
	var all []float64
	for _, s := range r.samples[daemon] {
		all = append(all, m.of(s))
	}
	return median(all)
}

func median(all []float64) float64 {
	slices.Sort(all)
	n := len(all)
	switch {
	case n == 0:
		return math.NaN()
	case n%2 == 1:
		return all[n/2]
	default:
		return (all[n/2-1] + all[n/2]) / 2
	}
}

// figure prints three significant digits and no exponent; "-" for no figure.
func figure(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

// writeRaw writes every sample as a Go benchmark's line, for
// `benchstat -col /daemon FILE`.
func writeRaw(name string, results []result) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	for _, r := range results {
		for _, k := range kinds {
			for _, s := range r.samples[k.name] {
				fmt.Fprintf(out, "BenchmarkBuild/case=%s/daemon=%s 1 %d ns/op %d cpu-ns/op %d peak-B\n",
					r.name, k.name, s.wall/time.Nanosecond, s.cpu/time.Nanosecond, s.peak)
			}
		}
	}
	return errors.Join(out.Flush(), f.Close())
}
