package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExplain changes one thing after the other and reads why the next build ran
// what it ran.
func TestExplain(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.files(`
-- Dockerfile --
FROM BASE AS made
ARG WORD=one
ENV LANGUAGE=C
COPY *.txt src /in/
RUN echo $WORD > /out
FROM scratch
COPY --from=made /out /
-- a.txt --
a
-- src/b --
b
-- src/c --
c
-- unused --
`)
	write := func(name, text string) { b.must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)) }
	replace := func(old, new string) func() {
		return func() {
			text, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
			b.must(err)
			write("Dockerfile", strings.Replace(string(text), old, new, 1))
		}
	}
	for _, c := range []struct {
		what   string
		change func()
		args   []string
		want   string
	}{
		{"the first build", func() {}, nil, "COPY *.txt src /in/\n    nothing like it has run here before"},
		{"the same again", func() {}, nil, "no step ran: everything was in the cache"},
		{"a file that nothing reads", func() { write("unused", "x") }, nil, "no step ran: everything was in the cache"},
		{"files", func() {
			write("a.txt", "new")
			write("src/d", "d")
			b.must(os.Remove(filepath.Join(dir, "src/c")))
		}, nil, "COPY *.txt src /in/\n    files of [internal] load build context changed:\n      modified /a.txt\n      removed /src/c\n      added /src/d\n"},
		{"an argument", func() {}, []string{"--build-arg", "WORD=two"}, "variable WORD was: one\n                   is: two"},
		{"a variable", replace("LANGUAGE=C", "LANGUAGE=D"), nil, "variable LANGUAGE was: C\n                       is: D"},
		{"a command", replace("echo $WORD", "echo and $WORD"), nil, "command was: /bin/sh -c echo $WORD > /out\n             is: /bin/sh -c echo and $WORD > /out"},
		{"a mount", replace("RUN echo", "RUN --mount=type=secret,id=s echo"), nil, "mount /run/secrets/s is new: "},
		{"a secret", replace("id=s ", "id=other,target=/run/secrets/s "), nil, "mount /run/secrets/s was: "},
		{"a secret variable", replace("target=/run/secrets/s ", "env=TOKEN "), nil, "secret variable TOKEN is new: other"},
		{"an option", replace("RUN ", "RUN --network=none "), nil, "network is new: none"},
		{"a user", replace("RUN ", "USER root\nRUN "), nil, "user is new: root"},
		{"no cache", func() {}, []string{"--no-cache"}, "it was told to ignore the cache"},
		{"no cache of one stage", func() {}, []string{"--no-cache-filter", "made"}, "it was told to ignore the cache"},
	} {
		c.change()
		out := b.build(append([]string{"--explain", "--progress=plain", "--output", b.TempDir(), dir}, c.args...)...)
		if !strings.Contains(out.stderr, c.want) {
			_, got, _ := strings.Cut(out.stderr, "why these steps ran:")
			t.Errorf("%s: no %q in\n%s", c.what, c.want, got)
		}
	}
	b.idle()
}

// TestExplainBase moves the tag of a base image, and finds the reason in the
// history too.
func TestExplainBase(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	base := b.files(`
-- Dockerfile --
FROM BASE
ARG VERSION
RUN echo $VERSION > /version
`)
	push := func(version string) {
		b.build("--build-arg", "VERSION="+version, "--output", "type=image,push=true,name="+registry.Host+"/moving:latest", base)
	}
	dir := b.files(`
-- Dockerfile --
FROM REGISTRY/moving
RUN cat /version > /copy
`)
	push("1")
	b.build(dir)
	push("2")
	shown := b.build("--explain", "--progress=plain", dir).stderr
	for _, shown := range []string{shown, b.kiln("history", "inspect").stdout} {
		for _, want := range []string{"    image was: " + registry.Host + "/moving:latest@sha256:", "    it stands on [1/2] FROM " + registry.Host + "/moving:latest@sha256:"} {
			if !strings.Contains(shown, want) {
				t.Errorf("no %q in\n%s", want, shown)
			}
		}
	}
	b.idle()
}

// TestExplainUnasked: the history knows why steps ran also of builds that didn't ask,
// and of those that failed.
func TestExplainUnasked(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	const text = `
-- Dockerfile --
FROM BASE
COPY file /
RUN echo first
RUN CODE=0; exit $CODE
-- file --
`
	b.build(b.files(text))
	fail := func(word string, args ...string) output {
		dir := b.files(strings.NewReplacer("first", word, "CODE=0", "CODE=1", "-- file --\n", "-- file --\n"+word+"\n").Replace(text))
		out := try(b.daemon.Client("kiln", append([]string{"build", dir}, args...)...))
		b.fails(out)
		return out
	}
	fail("second")
	history := b.kiln("history", "inspect").stdout
	for shown, want := range map[string][]string{
		history:                           {"what it reads of [internal] load build context changed", "command was: /bin/sh -c echo first\n             is: /bin/sh -c echo second"},
		fail("third", "--explain").stderr: {"modified /file", "             is: /bin/sh -c echo third"},
	} {
		for _, want := range want {
			if !strings.Contains(shown, want) {
				t.Errorf("no %q in\n%s", want, shown)
			}
		}
	}
	b.idle()
}
