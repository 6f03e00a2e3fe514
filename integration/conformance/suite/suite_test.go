package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fake compiles the tests in testdata.
func fake(t *testing.T) Suite {
	t.Helper()
	program := filepath.Join(t.TempDir(), "fake.test")
	if out, err := exec.Command("go", "test", "-c", "-o", program, "./testdata/fake").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return Suite{Name: "fake", Program: program, Dir: t.TempDir(), Env: append(os.Environ(), "MARKS="+t.TempDir())}
}

func TestTests(t *testing.T) {
	tests, err := fake(t).Tests(t.Context(), "oci")
	if err != nil {
		t.Fatal(err)
	}
	if len(tests) != 16 || tests[0] != (Test{"TestIntegration", "TestCrashes", "worker=oci/v=1"}) {
		t.Errorf("%d tests: %v", len(tests), tests)
	}
}

// TestRun runs every kind of test together and looks at what became of each.
func TestRun(t *testing.T) {
	if err := Adopt(); err != nil {
		t.Fatal(err)
	}
	s := fake(t)
	all, err := s.Tests(t.Context(), "oci")
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(t Test) bool { return t.Matrix != "worker=oci/v=1" })
	got := map[string]string{}
	r := &Runner{Jobs: 2, Limit: 2 * time.Second, Retries: 1, Logs: t.TempDir(), Scratch: t.TempDir()}
	r.Report = func(o Outcome) {
		if _, twice := got[o.Test.Name]; twice {
			t.Errorf("%s is reported twice", o.Test)
		}
		got[o.Test.Name] = strings.TrimSpace(fmt.Sprint(o.Status, " ", o.Note))
	}
	if err := r.Run(t.Context(), s, all); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"TestPasses": "PASS", "TestFails": "FAIL", "TestSkipped": "SKIP", "TestParts": "PASS",
		"TestHangs": "FAIL timeout", "TestCrashes": "FAIL crash", "TestSecond": "PASS", "TestLeaves": "PASS",
	}
	for name, status := range want {
		if got[name] != status {
			t.Errorf("%s: %q, want %q", name, got[name], status)
		}
	}
	if left, err := r.strays(); err != nil || len(left) > 0 {
		t.Errorf("processes left: %v, %v", left, err)
	}
	if entries, err := os.ReadDir(r.Scratch); err != nil || len(entries) > 0 {
		t.Errorf("files left: %v, %v", entries, err)
	}
}

func TestRunIsCancelled(t *testing.T) {
	s := fake(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r := &Runner{Jobs: 1, Limit: time.Hour, Logs: t.TempDir(), Scratch: t.TempDir()}
	r.Report = func(o Outcome) { t.Errorf("reported %v", o) }
	begin := time.Now()
	err := r.Run(ctx, s, []Test{{"TestIntegration", "TestHangs", "worker=oci/v=1"}})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > time.Minute {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

func TestBatches(t *testing.T) {
	var tests []Test
	for i := range 2*batchSize + 2 {
		tests = append(tests, Test{"Top", fmt.Sprint(i), fmt.Sprintf("worker=%d", i%2)})
	}
	total := 0
	for _, b := range batches(tests) {
		total += len(b)
		for _, other := range b {
			if other.Matrix != b[0].Matrix || len(b) > batchSize {
				t.Errorf("batch %v", b)
			}
		}
	}
	if total != len(tests) {
		t.Errorf("%d of %d tests are in a batch", total, len(tests))
	}
	if got := again(tests, true); len(got) != len(tests) {
		t.Errorf("%d batches when stuck", len(got))
	}
}

func TestPattern(t *testing.T) {
	got := pattern([]Test{{"Top", "A", "worker=oci/x=1.5"}, {"Top", "B(", "worker=oci/x=1.5"}})
	if want := `^Top$/^(A|B\()$/^worker=oci$/^x=1\.5$`; got != want {
		t.Errorf("got %s", got)
	}
}
