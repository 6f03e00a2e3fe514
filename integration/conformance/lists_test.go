package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestReport(t *testing.T) {
	must, aim := file(t, "c:Kept\nc:Broken\nc:NotRun\n"), file(t, "c:Kept\nc:Broken\nc:Open\nc:Won\n")
	results, err := readResults(file(t, "PASS c:Kept 0.10 \nFAIL c:Broken 3.00 timeout\nSKIP c:Open 0 \nPASS c:Won 1 \nFAIL c:Apart 0 \n"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	ok, err := report(&out, results, must, aim)
	if err != nil || ok {
		t.Errorf("ok %t, %v", ok, err)
	}
	const want = `pass with buildkitd and not yet here:
  SKIP c:Open
pass and are not in must-pass.txt (add them with -update):
  c:Won
MUST PASS AND DO NOT:
  FAIL c:Broken
5 tests: 2 passed, 2 failed, 1 skipped; 2 of the 4 that pass with buildkitd
`
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
	delete(results, "c:Broken")
	if ok, err := report(&out, results, must, aim); err != nil || !ok {
		t.Errorf("without the broken one: ok %t, %v", ok, err)
	}
}

func TestUpdateList(t *testing.T) {
	name := file(t, "c:Lost\nc:NotRun\n")
	if err := updateList(name, map[string]string{"c:Lost": "FAIL", "c:Won": "PASS", "c:Other": "SKIP"}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(name); string(got) != "c:NotRun\nc:Won\n" {
		t.Errorf("list %q", got)
	}
	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := updateList(fresh, map[string]string{"c:Won": "PASS"}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(fresh); string(got) != "c:Won\n" {
		t.Errorf("list %q", got)
	}
}

func TestReadResultsRefusesOther(t *testing.T) {
	if _, err := readResults(file(t, "PASS\n")); err == nil || !strings.Contains(err.Error(), "not a result") {
		t.Errorf("error %v", err)
	}
}

func TestListsNameTests(t *testing.T) {
	for _, name := range []string{"must-pass.txt", "buildkitd.txt"} {
		list, err := readList(name)
		if err != nil {
			t.Fatal(err)
		}
		for test := range list {
			if !strings.Contains(test, "/worker=") {
				t.Errorf("%s: %q is not a test of a worker", name, test)
			}
		}
	}
}

func TestChosenSuites(t *testing.T) {
	for _, c := range []struct {
		suites string
		n      int
	}{{"all", 6}, {"client", 1}, {"client,solver", 2}, {"client,other", 0}, {"", 0}} {
		names, err := options{suites: c.suites}.chosenSuites()
		if len(names) != c.n || (err == nil) != (c.n > 0) {
			t.Errorf("%q: %v, %v", c.suites, names, err)
		}
	}
}

// TestPart: the parts of a list have all of it, each name once.
func TestPart(t *testing.T) {
	t.Chdir("../..")
	list, err := readList(filepath.Join(lists, mustPass))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, part := range []string{"1/3", "2/3", "3/3"} {
		in, err := options{part: part}.inPart()
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for name := range list {
			if in(name) {
				found[name]++
				size++
			}
		}
		if size < len(list)/3 || size > len(list)/3+1 {
			t.Errorf("part %s has %d of %d", part, size, len(list))
		}
		if in("client:unknown") {
			t.Errorf("part %s has a test that is in no list", part)
		}
	}
	for name, n := range found {
		if n != 1 {
			t.Errorf("%s is in %d parts", name, n)
		}
	}
	for _, bad := range []string{"0/3", "4/3", "one", "1/0"} {
		if _, err := (options{part: bad}).inPart(); err == nil {
			t.Errorf("part %s has no error", bad)
		}
	}
}
