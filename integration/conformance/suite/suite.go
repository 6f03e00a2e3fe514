// Package suite runs compiled integration tests of BuildKit: it finds out which
// there are, runs them in batches, bounds the time of each, and goes on with the
// rest when one hangs or ends the process.
package suite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// Suite is one compiled test program.
type Suite struct {
	Name    string   // goes before each test's name, e.g. client
	Program string   // the compiled tests
	Dir     string   // the folder with their sources and test data
	Env     []string // all of their environment, but for TMPDIR and GOMAXPROCS
}

// Test is one test against one worker. It may hold further ones, which count
// as parts of it.
type Test struct {
	Top    string // the Go test function, e.g. TestIntegration
	Name   string // what is tested, e.g. TestCopy
	Matrix string // the worker and what else is varied: worker=oci/frontend=client
}

// String is the name that Go's test runner gives it.
func (t Test) String() string { return t.Top + "/" + t.Name + "/" + t.Matrix }

// Tests lists the tests for a worker, sorted.
//
// Go can't list subtests. So the tests are run with an empty PATH, where each
// fails as soon as its name is out, for want of a daemon to start.
func (s Suite) Tests(ctx context.Context, worker string) ([]Test, error) {
	list := exec.CommandContext(ctx, s.Program, "-test.list", "^Test.*Integration")
	list.Dir = s.Dir
	tops, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Program, err)
	}
	var names []string
	for _, top := range strings.Fields(string(tops)) {
		cmd := exec.CommandContext(ctx, s.Program, "-test.v", "-test.run", "^"+top+"$/./^worker="+worker+"$")
		cmd.Dir = s.Dir
		cmd.Env = append(slices.Clone(s.Env), "PATH=/nonexistent", "TMPDIR="+os.TempDir())
		out, _ := cmd.CombinedOutput() // fails, as it should
		scan := bufio.NewScanner(strings.NewReader(string(out)))
		for scan.Scan() {
			if name, ok := strings.CutPrefix(scan.Text(), "=== RUN   "); ok {
				names = append(names, strings.TrimSpace(name))
			}
		}
	}
	return leaves(names, worker), nil
}

// leaves makes tests of the longest names for a worker. Names that lead to
// longer ones are groups.
func leaves(names []string, worker string) []Test {
	slices.Sort(names)
	names = slices.Compact(names)
	var tests []Test
	for _, name := range names {
		isGroup := slices.ContainsFunc(names, func(other string) bool { return strings.HasPrefix(other, name+"/") })
		parts := strings.SplitN(name, "/", 3)
		if isGroup || len(parts) < 3 || !strings.HasPrefix(parts[2]+"/", "worker="+worker+"/") {
			continue
		}
		tests = append(tests, Test{Top: parts[0], Name: parts[1], Matrix: parts[2]})
	}
	return tests
}

// pattern is the -test.run expression for tests that have Top and Matrix in common.
func pattern(tests []Test) string {
	names := make([]string, len(tests))
	for i, t := range tests {
		names[i] = regexp.QuoteMeta(t.Name)
	}
	expr := "^" + regexp.QuoteMeta(tests[0].Top) + "$/^(" + strings.Join(names, "|") + ")$"
	for part := range strings.SplitSeq(tests[0].Matrix, "/") {
		expr += "/^" + regexp.QuoteMeta(part) + "$"
	}
	return expr
}
