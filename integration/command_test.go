package integration

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestHistory looks back on builds, with the daemon restarted in between.
func TestHistory(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	b.build("--build-arg", "A=b", b.files(`
-- Dockerfile --
FROM BASE
ARG A
RUN echo said by the step
`))
	failed := try(b.daemon.Client("kiln", "build", b.files(`
-- Dockerfile --
FROM BASE
RUN exit 3
`)))
	b.fails(failed)
	b.must(b.daemon.Stop())
	b.daemon.Start(t)

	refs := strings.Fields(b.kiln("history", "ls", "--format", "{{.Ref}}").stdout)
	if len(refs) != 2 {
		t.Fatalf("the history has the builds %q", refs)
	}
	last, first := refs[0], refs[1]
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"ls"}, []string{"error", "completed"}},
		{[]string{"logs", first}, []string{"RUN echo said by the step", "said by the step"}},
		{[]string{"logs"}, []string{"RUN exit 3", "exit code: 3"}},
		{[]string{"inspect", first}, []string{first, "completed", "build-arg:A"}},
		{[]string{"inspect", last}, []string{last, "exit code: 3"}},
	} {
		out := b.kiln(append([]string{"history"}, c.args...)...)
		for _, want := range c.want {
			if !strings.Contains(strings.ToLower(out.stdout+out.stderr), strings.ToLower(want)) {
				t.Errorf("history %q: %q is not in\n%s%s", c.args, want, out.stdout, out.stderr)
			}
		}
	}
	b.kiln("history", "rm", first)
	if left := strings.Fields(b.kiln("history", "ls", "--format", "{{.Ref}}").stdout); len(left) != 1 || left[0] != last {
		t.Errorf("after one was removed the history has %q", left)
	}
	b.kiln("history", "rm", "--all")
	if left := b.kiln("history", "ls", "--format", "{{.Ref}}").stdout; left != "" {
		t.Errorf("after all were removed the history has %q", left)
	}
}

// TestUsage looks at what builds keep, and removes some of it.
func TestUsage(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	b.build(b.files(`
-- Dockerfile --
FROM BASE
RUN dd if=/dev/zero of=/large bs=1M count=3
RUN --mount=type=cache,target=/cache dd if=/dev/zero of=/cache/large bs=1M count=2
`))
	sizes := map[string]int64{}
	for _, r := range b.du() {
		sizes[r.RecordType] = max(sizes[r.RecordType], r.Size)
	}
	if n := sizes["regular"]; n < 3<<20 || n > 4<<20 {
		t.Errorf("the largest layer is of %d bytes", n)
	}
	if n := sizes["exec.cachemount"]; n < 2<<20 || n > 3<<20 {
		t.Errorf("the cache mount is of %d bytes", n)
	}
	for _, c := range []struct {
		command string
		want    string
	}{
		{"version", "v0.33"},
		{"workers", "linux/amd64"},
		{"du", "Total:"},
		{"du --verbose", "dd if=/dev/zero of=/large"},
		{"prune --filter type==exec.cachemount", "2.10MB"},
	} {
		if out := b.kiln(strings.Fields(c.command)...); !strings.Contains(out.stdout, c.want) {
			t.Errorf("%s: %q is not in\n%s", c.command, c.want, out.stdout)
		}
	}
	for _, r := range b.du() {
		if r.RecordType == "exec.cachemount" {
			t.Errorf("the cache mount was not pruned: %+v", r)
		}
	}
}

// TestCheck finds mistakes without building.
func TestCheck(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.files(`
-- Dockerfile --
FROM BASE AS Made
RUN exit 1
`)
	out := try(b.daemon.Client("kiln", "build", "--check", dir))
	if all := out.stdout + out.stderr; out.err == nil || !strings.Contains(all, "StageNameCasing") || !strings.Contains(all, "Dockerfile:1") {
		t.Errorf("%v\n%s", out.err, all)
	}
	metadata := filepath.Join(t.TempDir(), "metadata.json")
	targets := b.kiln("build", "--call=targets", "--metadata-file", metadata, dir)
	if !strings.Contains(strings.ToLower(targets.stdout), "made") {
		t.Errorf("targets are\n%s", targets.stdout)
	}
	b.idle()
}
