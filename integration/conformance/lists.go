package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// readResults reads lines "STATUS suite:test ..." into status by name.
func readResults(name string) (map[string]string, error) {
	results := map[string]string{}
	err := eachLine(name, func(line string) error {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			return fmt.Errorf("%s: not a result: %q", name, line)
		}
		results[fields[1]] = fields[0]
		return nil
	})
	return results, err
}

// readList reads a list of tests' names.
func readList(name string) (map[string]bool, error) {
	list := map[string]bool{}
	err := eachLine(name, func(line string) error {
		list[line] = true
		return nil
	})
	return list, err
}

func eachLine(name string, f func(string) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	scan := bufio.NewScanner(file)
	for scan.Scan() {
		if line := strings.TrimSpace(scan.Text()); line != "" {
			if err := f(line); err != nil {
				return err
			}
		}
	}
	return scan.Err()
}

// inPart returns what tells whether a test is in the part that was asked for.
func (o options) inPart() (func(name string) bool, error) {
	if o.part == "" {
		return func(string) bool { return true }, nil
	}
	var i, n int
	if _, err := fmt.Sscanf(o.part, "%d/%d", &i, &n); err != nil || i < 1 || i > n {
		return nil, fmt.Errorf("-part %q is not of the form I/N, with I from 1 to N", o.part)
	}
	list, err := readList(filepath.Join(lists, mustPass))
	if err != nil {
		return nil, err
	}
	return func(name string) bool { return list[name] && place(list, name)%n == i-1 }, nil
}

// place is where a name stands in a sorted list.
func place(list map[string]bool, name string) int {
	before := 0
	for other := range list {
		if other < name {
			before++
		}
	}
	return before
}

// updateList corrects a list by results: what passed gets in, what did not goes
// out, what was not run stays as it was.
func updateList(name string, results map[string]string) error {
	list, err := readList(name)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for test, status := range results {
		if status == "PASS" {
			list[test] = true
		} else {
			delete(list, test)
		}
	}
	text := strings.Join(slices.Sorted(maps.Keys(list)), "\n") + "\n"
	return os.WriteFile(name, []byte(text), 0o644)
}

// report prints how the results stand against the two lists. It returns false
// when a test that must pass was run and did not.
func report(out io.Writer, results map[string]string, mustName, aimName string) (bool, error) {
	must, err := readList(mustName)
	if err != nil {
		return false, err
	}
	aim, err := readList(aimName)
	if err != nil {
		return false, err
	}
	var broken, open, won []string
	counts := map[string]int{}
	reached, possible := 0, 0
	for _, test := range slices.Sorted(maps.Keys(results)) {
		status := results[test]
		counts[status]++
		passed := status == "PASS"
		if aim[test] {
			possible++
			if passed {
				reached++
			}
		}
		switch {
		case must[test] && !passed:
			broken = append(broken, status+" "+test)
		case aim[test] && !passed:
			open = append(open, status+" "+test)
		case passed && !must[test]:
			won = append(won, test)
		}
	}
	printNames(out, "pass with buildkitd and not yet here:", open)
	printNames(out, "pass and are not in must-pass.txt (add them with -update):", won)
	printNames(out, "MUST PASS AND DO NOT:", broken)
	fmt.Fprintf(out, "%d tests: %d passed, %d failed, %d skipped; %d of the %d that pass with buildkitd\n",
		len(results), counts["PASS"], counts["FAIL"], counts["SKIP"], reached, possible)
	return len(broken) == 0, nil
}

func printNames(out io.Writer, title string, names []string) {
	if len(names) == 0 {
		return
	}
	fmt.Fprintln(out, title)
	for _, name := range names {
		fmt.Fprintln(out, "  "+name)
	}
}
