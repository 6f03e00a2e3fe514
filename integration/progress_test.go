package integration

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the progress that is shown into testdata")

// TestProgress compares what a build shows, line by line, with testdata. What
// changes from run to run is written as X: times, sizes, digests, addresses.
func TestProgress(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.files(`
-- Dockerfile --
FROM BASE AS made
RUN echo to standard error >&2
COPY file /
FROM made
RUN cat /file
-- file --
from the file
`)
	dest := t.TempDir()
	for _, c := range []struct {
		golden string
		args   []string
	}{
		{"first.txt", []string{"--progress=plain"}},
		{"cached.txt", []string{"--progress=plain"}},
		{"quiet.txt", []string{"--quiet"}},
		{"failed.txt", []string{"--progress=plain", "--target=absent"}},
	} {
		args := append([]string{"build", "--output", "type=oci,dest=image.tar"}, c.args...)
		cmd := b.daemon.Client("kiln", append(args, dir)...)
		cmd.Dir = dest
		out := try(cmd)
		got := steady("standard output:\n" + out.stdout + "standard error:\n" + out.stderr)
		path := filepath.Join("testdata", "progress", c.golden)
		if *update {
			b.must(os.MkdirAll(filepath.Dir(path), 0o755))
			b.must(os.WriteFile(path, []byte(got), 0o644))
		}
		compare := exec.Command("diff", "-u", path, "-")
		compare.Stdin = strings.NewReader(got)
		if diff := try(compare); diff.err != nil {
			t.Errorf("%v\n%s%s", diff.err, diff.stdout, diff.stderr)
		}
	}
}

// steady makes what is shown the same in every run. What changes is replaced;
// the steps, some of which run at the same time, come in the order of their
// names and without numbers; of lines that report the same thing again and
// again only the last stays.
func steady(text string) string {
	for _, r := range []struct{ pattern, with string }{
		{regexp.QuoteMeta(registry.Host), "REGISTRY"},
		{`[0-9a-f]{64}`, "X"},
		{`\b\d+\.\d+s`, "Xs"},
		{`(?m)^(#\d+) \d+\.\d+ `, "$1 X "},
		{`\b\d+(\.\d+)? ?[kM]?B\b`, "XB"},
		{`(?m) Xs done$`, " done"},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	numbered := regexp.MustCompile(`^#\d+`)
	steps := map[string][]string{}
	var rest strings.Builder
	for line := range strings.Lines(text) {
		switch number := numbered.FindString(line); {
		case number != "":
			steps[number] = report(steps[number], strings.TrimSpace(strings.TrimPrefix(line, number)))
		case line != "\n":
			rest.WriteString(line)
		}
	}
	var blocks []string
	for _, lines := range steps {
		blocks = append(blocks, strings.Join(lines, "\n")+"\n")
	}
	slices.Sort(blocks)
	return strings.Join(append(blocks, rest.String()), "\n")
}

// amount is what follows an item that is reported more than once.
var amount = regexp.MustCompile(`( (XB|Xs|/|done))+$`)

// report adds a line to those of a step, or replaces the last one if both are
// of the same item. It leaves out what is shown when the display turns to
// another step and back.
func report(lines []string, line string) []string {
	if line == "..." || len(lines) > 0 && line == lines[0] {
		return lines
	}
	if last := len(lines) - 1; last >= 0 && amount.ReplaceAllString(lines[last], "") == amount.ReplaceAllString(line, "") {
		lines = lines[:last]
	}
	return append(lines, line)
}
