// Command bench measures kilnd beside buildkitd: the same client, the same
// disk, the same builds, in turns.
//
// Both daemons run the whole time (buildkitd with its OCI worker on overlayfs
// and without garbage collection, kilnd with its embedded backend), and take
// turns run by run, so that whatever else the machine does falls on both. The
// programs buildkitd, kilnd, buildctl, runc and registry are taken from PATH; for
// what ends in a container each has a containerd of its own, from there as well.
//
// What is printed per case is the median over the runs, and kilnd's figure
// divided by buildkitd's: below 1 kilnd needs less.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

func main() {
	o := options{data: 300e6}
	pattern := flag.String("case", ".", "regexp of the cases to run")
	list := flag.Bool("list", false, "only list the cases")
	raw := flag.String("raw", "", "also write every run to this file, in the form that benchstat reads")
	flag.IntVar(&o.runs, "runs", 5, "runs of each case on each daemon")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "folder, on a disk and not on overlayfs or tmpfs, for the daemons' roots")
	flag.StringVar(&o.only, "only", "", "measure this daemon alone: buildkitd or kilnd")
	flag.Parse()

	match, err := regexp.Compile(*pattern)
	if err != nil {
		fail(err)
	}
	for _, c := range cases {
		if match.MatchString(c.name) {
			o.cases = append(o.cases, c)
		}
	}
	if *list {
		for _, c := range o.cases {
			fmt.Printf("%-18s %s\n", c.name, c.what)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	results, err := run(ctx, o)
	err = errors.Join(err, printTable(os.Stdout, results))
	if err == nil && *raw != "" {
		err = writeRaw(*raw, results)
	}
	if err != nil {
		stop()
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}
