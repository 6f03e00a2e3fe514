package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRun measures cases for real, with a small image, on kilnd alone.
func TestRun(t *testing.T) {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+filepath.Join(bin, "tools")+":"+os.Getenv("PATH"))
	dir := t.TempDir()
	o := options{runs: 1, dir: dir, only: "kilnd", data: 1e6}
	for _, c := range cases {
		switch c.name {
		case "cached", "export300", "pull300":
			o.cases = append(o.cases, c)
		}
	}
	results, err := run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		s := r.samples["kilnd"]
		if len(s) != 1 || s[0].wall <= 0 || s[0].wall > time.Minute || s[0].peak < 1<<20 {
			t.Errorf("%s: samples %v", r.name, s)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRunOnNothing(t *testing.T) {
	t.Setenv("PATH", "")
	if _, err := run(t.Context(), options{dir: t.TempDir()}); err == nil {
		t.Error("no error without the programs")
	}
}
