package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var someResults = []result{
	{benchCase: benchCase{name: "both", what: "measured on both"}, samples: map[string][]sample{
		"buildkitd": {{time.Second, 400 * time.Millisecond, 100e6, 0}, {3 * time.Second, 400 * time.Millisecond, 100e6, 0}, {2 * time.Second, time.Second, 100e6, 0}},
		"kilnd":     {{time.Second, 100 * time.Millisecond, 20e6, 0}, {2 * time.Second, 100 * time.Millisecond, 30e6, 0}},
	}},
	{benchCase: benchCase{name: "half", what: "measured on one"}, samples: map[string][]sample{
		"buildkitd": {{150 * time.Second, 0, 5e6, 2e6}},
	}},
}

func TestPrintTable(t *testing.T) {
	const want = `
      |    wall s             |     cpu s             |   peak MB
      | buildkitd kilnd ratio | buildkitd kilnd ratio | buildkitd kilnd ratio
 both |      2.00  1.50 0.750 |     0.400 0.100 0.250 |       100  25.0 0.250
 half |       150     -     - |     0.000     -     - |      5.00     -     -
`
	var out bytes.Buffer
	if err := printTable(&out, someResults); err != nil {
		t.Fatal(err)
	}
	if got := "\n" + regexp.MustCompile(` +\n`).ReplaceAllString(out.String(), "\n"); !strings.HasPrefix(got, want) || !strings.Contains(got, "\nhalf: measured on one\n    fetched from the registry: buildkitd 2.00 MB, kilnd - MB\n") {
		t.Errorf("got %s", got)
	}
	out.Reset()
	if err := printTable(&out, nil); err != nil || out.Len() != 0 {
		t.Errorf("a table of nothing: %v, %s", err, out.String())
	}
}

func TestWriteRaw(t *testing.T) {
	name := filepath.Join(t.TempDir(), "raw")
	if err := writeRaw(name, someResults[1:]); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(name)
	if want := "BenchmarkBuild/case=half/daemon=buildkitd 1 150000000000 ns/op 0 cpu-ns/op 5000000 peak-B\n"; string(got) != want {
		t.Errorf("got %q", got)
	}
	if err := writeRaw(filepath.Join(name, "x"), someResults); err == nil {
		t.Error("no error below a file")
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0.000", 0.0331: "0.033", 1.234: "1.23", 12.34: "12.3", 1234.5: "1234"} {
		if got := figure(v); got != want {
			t.Errorf("figure(%v) = %s, want %s", v, got, want)
		}
	}
	if got := figure(1 / median([]float64{0})); got != "-" {
		t.Errorf("a ratio to nothing: %s", got)
	}
}
