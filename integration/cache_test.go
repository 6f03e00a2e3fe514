package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cached returns the names of the steps that the build took from the cache, and
// of those that it ran; steps of the daemon itself and sources don't count.
func (o output) cached() (cached, ran []string) {
	names := map[string]string{}
	for line := range strings.Lines(o.stderr) {
		id, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case !strings.HasPrefix(id, "#"):
		case names[id] == "":
			names[id] = text
		case text == "CACHED" && counts(names[id]):
			cached = append(cached, instruction(names[id]))
		case strings.HasPrefix(text, "DONE") && counts(names[id]):
			ran = append(ran, instruction(names[id]))
		}
	}
	return cached, ran
}

func counts(name string) bool {
	return strings.Contains(name, "] RUN ") || strings.Contains(name, "] COPY ")
}

// instruction takes [2/3] from the front.
func instruction(name string) string {
	_, text, _ := strings.Cut(name, "] ")
	return text
}

const fourSteps = `
-- Dockerfile --
FROM BASE
RUN echo first
COPY first /
COPY second /
RUN cat /first /second > /third
-- first --
-- second --
-- unused --
`

// TestCache rebuilds after changes and looks at what runs again.
func TestCache(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.files(fourSteps)
	all := []string{"RUN echo first", "COPY first /", "COPY second /", "RUN cat /first /second > /third"}
	change := func(name, text string) func() {
		return func() { b.must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)) }
	}
	for _, c := range []struct {
		name string
		do   func() // before the build
		args []string
		ran  []string
	}{
		{"first time", func() {}, nil, all},
		{"the same again", func() {}, nil, nil},
		{"a file that is not copied", change("unused", "x"), nil, nil},
		{"a new file with other times", change("second", ""), nil, nil},
		{"the second file", change("second", "changed"), nil, all[2:]},
		{"the second file as it was", change("second", ""), nil, nil},
		{"without the cache", func() {}, []string{"--no-cache"}, all},
		{"after that", func() {}, nil, nil},
		{"another daemon on the root", func() { b.must(b.daemon.Stop()); b.daemon.Start(t) }, nil, nil},
		{"after pruning", func() { b.kiln("prune", "--all") }, nil, all},
	} {
		c.do()
		out := b.build(append(c.args, dir)...)
		cached, ran := out.cached()
		if !slices.Equal(ran, c.ran) || len(cached)+len(ran) != len(all) {
			t.Errorf("%s: ran %q\nwant %q\ncached were %q\n%s", c.name, ran, c.ran, cached, out.stderr)
		}
	}
	b.idle()
}

// TestCacheMount: a cache mount outlives builds, and pruning ends it.
func TestCacheMount(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.files(`
-- Dockerfile --
FROM BASE AS made
ARG TIME
RUN --mount=type=cache,target=/cache echo $TIME >> /cache/log && cp /cache/log /out
FROM scratch
COPY --from=made /out /
`)
	build := func(time string) string {
		out := t.TempDir()
		b.build("--build-arg", "TIME="+time, "--output", out, dir)
		return b.tree(out)["out"]
	}
	build("first")
	if got := build("second"); got != "first\nsecond\n" {
		t.Errorf("the second build sees %q", got)
	}
	b.must(b.daemon.Stop())
	b.daemon.Start(t)
	if got := build("third"); got != "first\nsecond\nthird\n" {
		t.Errorf("after a restart a build sees %q", got)
	}
	if !slices.ContainsFunc(b.du(), func(r record) bool { return r.RecordType == "exec.cachemount" }) {
		t.Errorf("the cache mount is not in %+v", b.du())
	}
	b.idle()
	if got := build("fourth"); got != "fourth\n" {
		t.Errorf("after pruning a build sees %q", got)
	}
}

// TestPruneKeepsImages: what images in containerd need stays.
func TestPruneKeepsImages(t *testing.T) {
	t.Parallel()
	b := onHost(t)
	b.build("--tag", "example.test/kept", b.files(fourSteps))
	b.kiln("prune", "--all")
	b.run(b.containerd.Ctr("content", "prune", "references"))
	if out := b.run(b.containerd.Run("example.test/kept:latest", "ls", "/third")); out.stdout != "/third\n" {
		t.Errorf("got %q", out.stdout)
	}
}

func (b *bed) du() []record {
	b.Helper()
	all, err := b.records()
	b.must(err)
	return all
}
