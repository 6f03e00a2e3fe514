// Command conformance runs BuildKit's own integration suites against kilnd, and
// fails when a test that must pass does not.
//
// The daemon is started by the suites under the name buildkitd, with its flags
// and configuration. must-pass.txt lists what has to pass; buildkitd.txt lists
// what the real buildkitd passes in the same place, so it is the aim. What
// neither has wants the internet, another kernel or other images.
//
// It runs as root, from the root of the checkout, with the pinned programs of
// tools/ on PATH. What it needs besides it makes below -dir, once, in minutes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kiln-build/kiln/integration/conformance/kit"
)

const (
	lists    = "integration/conformance"
	mustPass = "must-pass.txt"
)

// options are the command line.
type options struct {
	dir     string
	daemon  string
	client  string
	workers string
	suites  string
	run     string
	skip    string
	part    string
	jobs    int
	limit   time.Duration
	retries int
	update  bool
	list    bool
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", ".cache/conformance", "folder for what the suites need and for logs")
	flag.StringVar(&o.daemon, "daemon", "kilnd", "the daemon, which is called as buildkitd")
	flag.StringVar(&o.client, "buildctl", "buildctl", "the client that the suites call buildctl")
	flag.StringVar(&o.workers, "worker", "oci,containerd", "workers to test: oci, containerd")
	flag.StringVar(&o.suites, "suite", "all", "suites to run: "+strings.Join(kit.Suites, ", "))
	flag.StringVar(&o.run, "run", "", "regexp of the tests to run")
	flag.StringVar(&o.skip, "skip", "", "regexp of tests to leave out")
	flag.StringVar(&o.part, "part", "", "run only part `I/N` of must-pass.txt: every Nth test, from the Ith on")
	flag.IntVar(&o.jobs, "jobs", 3, "tests at once")
	flag.DurationVar(&o.limit, "timeout", 3*time.Minute, "limit for one test")
	flag.IntVar(&o.retries, "retries", 1, "further attempts for a test that failed")
	flag.BoolVar(&o.update, "update", false, "write what passes into must-pass.txt (buildkitd.txt, when that is the daemon)")
	flag.BoolVar(&o.list, "list", false, "only list the tests")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := conform(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// conform makes what is missing and runs the suites. It returns false when a
// test that must pass did not.
func conform(ctx context.Context, o options) (bool, error) {
	if flag.NArg() > 0 {
		return false, fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	k, err := kit.Open(".", o.dir, func(text string) { fmt.Fprintln(os.Stderr, text) })
	if err != nil {
		return false, err
	}
	if inside() {
		return true, runInside(ctx, k, o)
	}
	if err := k.Make(ctx); err != nil {
		return false, err
	}
	if k.NeedGoldens() {
		if err := makeGoldens(ctx, k, o.dir); err != nil {
			return false, fmt.Errorf("golden files: %w", err)
		}
	}
	results := k.Scratch("results.txt")
	if err := os.MkdirAll(filepath.Dir(results), 0o755); err != nil {
		return false, err
	}
	if err := enter(ctx, results, nil, os.Args[1:]...); err != nil {
		return false, err
	}
	if o.list {
		return true, nil
	}
	return judge(o, results)
}

// makeGoldens has the real daemon write the golden files that depend on images.
func makeGoldens(ctx context.Context, k *kit.Kit, dir string) error {
	fmt.Fprintln(os.Stderr, "making golden files")
	if err := k.ClearGoldens(); err != nil {
		return err
	}
	results := k.Scratch("goldens.txt")
	if err := os.MkdirAll(filepath.Dir(results), 0o755); err != nil {
		return err
	}
	err := enter(ctx, results, []string{"BUILDKIT_UPDATE_COMPAT_GOLDENS=1"},
		"-dir", dir, "-daemon", "buildkitd", "-worker", "oci", "-suite", "client",
		"-run", kit.GoldenTests, "-jobs", "1")
	if err != nil {
		return err
	}
	return k.KeepGoldens(ctx)
}

// judge compares results with the list, or makes them the list.
func judge(o options, results string) (bool, error) {
	got, err := readResults(results)
	if err != nil {
		return false, err
	}
	aim := filepath.Join(lists, "buildkitd.txt")
	must := filepath.Join(lists, mustPass)
	if o.update {
		if strings.Contains(filepath.Base(o.daemon), "buildkitd") {
			must = aim
		}
		return true, updateList(must, got)
	}
	return report(os.Stdout, got, must, aim)
}

// chosenSuites are the names of the suites to run, in order.
func (o options) chosenSuites() ([]string, error) {
	if o.suites == "all" {
		return kit.Suites, nil
	}
	names := strings.Split(o.suites, ",")
	for _, name := range names {
		if !slices.Contains(kit.Suites, name) {
			return nil, fmt.Errorf("no suite is called %q", name)
		}
	}
	return slices.Compact(names), nil
}

// program finds a program on PATH or by its path.
func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}
