package suite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Runner says how tests are run. It needs the calling process to be the
// subreaper of its descendants, see Adopt, and to have no other children that
// must live on, since it ends them all after each batch.
type Runner struct {
	Jobs    int           // tests at once
	Limit   time.Duration // for one test; tests named *ExtraTimeout* have three times as much
	Retries int           // further attempts for a test that failed
	Logs    string        // a folder for each batch's output
	Scratch string        // a folder with a short name for what the tests write
	Keep    []int         // children of this process that are left alone
	Report  func(Outcome) // called for each test as soon as it is settled

	batches int
}

// Outcome is what became of a test.
type Outcome struct {
	Suite  string
	Test   Test
	Status Status
	Took   time.Duration
	Note   string // timeout or crash, where the test did not end by itself
	Log    string // the batch's output
}

// Status is the result of a test.
type Status string

// The statuses of a test that was run.
const (
	Pass Status = "PASS"
	Fail Status = "FAIL"
	Skip Status = "SKIP"
)

// batchSize bounds what is run again when a test ends the whole process.
const batchSize = 24

// Run runs tests of a suite. An error means that they could not be run.
func (r *Runner) Run(ctx context.Context, s Suite, tests []Test) error {
	attempts := map[Test]int{}
	queue := batches(tests)
	for len(queue) > 0 {
		batch := queue[0]
		queue = queue[1:]
		outcomes, err := r.batch(ctx, s, batch)
		if err != nil {
			return err
		}
		var rest []Test
		for _, t := range batch {
			o, ended := outcomes[t]
			switch {
			case !ended:
				rest = append(rest, t)
			case o.Status == Fail && attempts[t] < r.Retries:
				attempts[t]++
				queue = append(queue, []Test{t})
			default:
				r.Report(o)
			}
		}
		queue = append(again(rest, len(rest) == len(batch)), queue...)
	}
	return nil
}

// batches groups tests that one -test.run expression can name.
func batches(tests []Test) (all [][]Test) {
	open := map[[2]string]int{} // index in all of the group's last batch
	for _, t := range tests {
		group := [2]string{t.Top, t.Matrix}
		i, ok := open[group]
		if !ok || len(all[i]) == batchSize {
			i = len(all)
			open[group] = i
			all = append(all, nil)
		}
		all[i] = append(all[i], t)
	}
	return all
}

// again makes batches of what a batch left undone: one, or, when that batch
// settled nothing, as many as tests.
func again(rest []Test, stuck bool) (all [][]Test) {
	if !stuck {
		return batches(rest)
	}
	for _, t := range rest {
		all = append(all, []Test{t})
	}
	return all
}

// batch runs tests in one process. Those without an outcome were not run, or
// were running when another one ended the process.
func (r *Runner) batch(ctx context.Context, s Suite, tests []Test) (map[Test]Outcome, error) {
	r.batches++
	temp := filepath.Join(r.Scratch, fmt.Sprintf("%d", r.batches))
	if err := os.MkdirAll(temp, 0o755); err != nil {
		return nil, err
	}
	log := filepath.Join(r.Logs, fmt.Sprintf("%s.%03d.log", s.Name, r.batches))
	watch, err := r.execute(ctx, s, tests, temp, log)
	if err == nil {
		err = r.endDescendants()
	}
	if err == nil {
		err = removeTree(temp)
	}
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	outcomes := map[Test]Outcome{}
	for _, t := range tests {
		o, ended := watch.outcome(t, len(tests) == 1)
		if ended {
			o.Suite, o.Test, o.Log = s.Name, t, log
			outcomes[t] = o
		}
	}
	return outcomes, nil
}

// limit is the time that a test may take.
func (r *Runner) limit(name string) time.Duration {
	if strings.Contains(name, "ExtraTimeout") {
		return 3 * r.Limit
	}
	return r.Limit
}
