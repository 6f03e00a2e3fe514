package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kiln-build/kiln/integration/conformance/kit"
	"github.com/kiln-build/kiln/integration/conformance/suite"
)

// runInside runs the chosen suites in this process's sandbox and writes a line
// for each test into the file of results.
func runInside(ctx context.Context, k *kit.Kit, o options) (err error) {
	plan, err := choose(ctx, k, o)
	if err != nil {
		return err
	}
	if o.list {
		for _, p := range plan {
			for _, t := range p.tests {
				fmt.Printf("%s:%s\n", p.suite.Name, t)
			}
		}
		return nil
	}
	if o.daemon, err = program(o.daemon); err != nil {
		return err
	}
	if o.client, err = program(o.client); err != nil {
		return err
	}
	children, err := furnish(k)
	if err != nil {
		return err
	}
	env, err := environment(k, o)
	if err != nil {
		return err
	}
	if err := suite.Adopt(); err != nil {
		return err
	}
	results, err := os.Create(os.Getenv(resultsVariable))
	if err != nil {
		return err
	}
	logs := k.Scratch("logs")
	if err := os.RemoveAll(logs); err != nil {
		return err
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	r := &suite.Runner{Jobs: o.jobs, Limit: o.limit, Retries: o.retries, Logs: logs, Scratch: scratch, Keep: children}
	r.Report = progress(results, plan)
	for _, p := range plan {
		p.suite.Env = append(p.suite.Env, env...)
		if err := r.Run(ctx, p.suite, p.tests); err != nil {
			return errors.Join(err, results.Close())
		}
	}
	return results.Close()
}

// part is a suite and the tests of it that were asked for.
type part struct {
	suite suite.Suite
	tests []suite.Test
}

// choose lists the suites' tests that the options name.
func choose(ctx context.Context, k *kit.Kit, o options) ([]part, error) {
	run, err := regexp.Compile(o.run)
	if err != nil {
		return nil, err
	}
	skip, err := regexp.Compile(o.skip)
	if err != nil {
		return nil, err
	}
	suites, err := o.chosenSuites()
	if err != nil {
		return nil, err
	}
	inPart, err := o.inPart()
	if err != nil {
		return nil, err
	}
	var plan []part
	for _, name := range suites {
		p := part{suite: k.Suite(name)}
		for worker := range strings.SplitSeq(o.workers, ",") {
			tests, err := p.suite.Tests(ctx, worker)
			if err != nil {
				return nil, err
			}
			p.tests = append(p.tests, slices.DeleteFunc(tests, func(t suite.Test) bool {
				return !inPart(name+":"+t.String()) || !run.MatchString(t.String()) || o.skip != "" && skip.MatchString(t.String())
			})...)
		}
		plan = append(plan, p)
	}
	return plan, nil
}

// progress returns a function that writes outcomes to a file and tells of them.
func progress(results *os.File, plan []part) func(suite.Outcome) {
	total, done := 0, 0
	for _, p := range plan {
		total += len(p.tests)
	}
	return func(o suite.Outcome) {
		done++
		fmt.Fprintf(results, "%s %s:%s %.2f %s\n", o.Status, o.Suite, o.Test, o.Took.Seconds(), o.Note)
		line := fmt.Sprintf("%4d/%d %s %s:%s %v %s", done, total, o.Status, o.Suite, o.Test, o.Took.Round(time.Millisecond), o.Note)
		if o.Status == suite.Fail {
			line += " see " + filepath.Base(o.Log)
		}
		fmt.Fprintln(os.Stderr, line)
	}
}
