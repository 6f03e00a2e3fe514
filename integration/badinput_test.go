package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestErrors gives builds what cannot work, and looks for the place and the
// cause in what the user sees.
func TestErrors(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	nobody, err := testbed.FreeAddress()
	b.must(err)
	for _, c := range []struct {
		name  string
		files string
		args  []string // of kiln build; NOBODY is an address where nothing listens
		want  []string // in what is shown
	}{
		{
			name: "unknown instruction",
			files: `
-- Dockerfile --
FROM BASE

RUNN true
`,
			want: []string{"Dockerfile:3", ">>> RUNN true", "unknown instruction: RUNN (did you mean RUN?)"},
		},
		{
			name: "missing file",
			files: `
-- Dockerfile --
FROM scratch
COPY there /
COPY absent /
-- there --
`,
			want: []string{"Dockerfile:3", ">>> COPY absent /", `"/absent": not found`},
		},
		{
			name: "file left out by the ignore file",
			files: `
-- Dockerfile --
FROM scratch
COPY hidden /
-- .dockerignore --
hidden
-- hidden --
`,
			want: []string{"Dockerfile:2", ">>> COPY hidden /", `"/hidden": not found`, ".dockerignore"},
		},
		{
			name: "cycle of stages",
			files: `
-- Dockerfile --
FROM scratch AS a
COPY --from=b / /
FROM scratch AS b
COPY --from=a / /
`,
			want: []string{"Dockerfile:2", ">>> COPY --from=b / /", "circular dependency", "a"},
		},
		{
			name: "failing step",
			files: `
-- Dockerfile --
FROM BASE
RUN true
RUN echo some last words && exit 7
RUN true
`,
			want: []string{"Dockerfile:3", ">>> RUN echo some last words && exit 7", "some last words", "exit code: 7"},
		},
		{
			name: "command that does not exist",
			files: `
-- Dockerfile --
FROM BASE
RUN ["/bin/nonesuch"]
`,
			want: []string{"Dockerfile:2", ">>> RUN", "/bin/nonesuch", "no such file or directory"},
		},
		{
			name: "registry that is down",
			files: `
-- Dockerfile --
FROM NOBODY/image
`,
			want: []string{"Dockerfile:1", ">>> FROM NOBODY/image", "NOBODY/image:latest", "connection refused"},
		},
		{
			name: "image that does not exist",
			files: `
-- Dockerfile --
FROM REGISTRY/nonesuch:1
`,
			want: []string{"Dockerfile:1", ">>> FROM", "nonesuch:1", "not found"},
		},
		{
			name: "platform that the image lacks",
			files: `
-- Dockerfile --
FROM --platform=linux/riscv64 MULTI
`,
			want: []string{"Dockerfile:1", ">>> FROM", "multi:latest", "no match for platform in manifest"},
		},
		{
			name: "push to a registry that is down",
			files: `
-- Dockerfile --
FROM scratch
COPY Dockerfile /
`,
			args: []string{"--push", "--tag", "NOBODY/pushed"},
			want: []string{"NOBODY/pushed", "connection refused"},
		},
		{
			name: "missing secret",
			files: `
-- Dockerfile --
FROM BASE
RUN --mount=type=secret,id=token,required=true true
`,
			want: []string{"Dockerfile:2", ">>> RUN --mount=type=secret", "token", "not found", "--secret id=token"},
		},
		{
			name: "missing agent",
			files: `
-- Dockerfile --
FROM BASE
RUN --mount=type=ssh,id=deploy,required=true true
`,
			want: []string{"Dockerfile:2", ">>> RUN --mount=type=ssh", `no SSH key "deploy"`, "--ssh deploy"},
		},
		{
			name: "user that the image lacks",
			files: `
-- Dockerfile --
FROM BASE
USER deploy:nogroup
RUN true
`,
			want: []string{"Dockerfile:3", ">>> RUN true", `user "deploy:nogroup"`, "/etc/passwd", "numbers"},
		},
		{
			name: "user that would be root",
			files: `
-- Dockerfile --
FROM BASE
USER 4294967296:4294967296
RUN true
`,
			want: []string{"Dockerfile:3", ">>> RUN true", "4294967296", "below 4294967295"},
		},
		{
			name: "mode that no file has",
			files: `
-- Dockerfile --
FROM BASE
RUN --mount=type=secret,id=token,mode=0100400 true
`,
			want: []string{"mount", "/run/secrets/token", "mode 0100400", "up to 07777"},
		},
		{
			name: "tmpfs that is too small",
			files: `
-- Dockerfile --
FROM BASE
RUN --mount=type=tmpfs,target=/small,size=1048576 dd if=/dev/zero of=/small/file bs=1M count=3
`,
			want: []string{"Dockerfile:2", ">>> RUN --mount=type=tmpfs", "No space left on device", "exit code: 1"},
		},
		{
			name: "directory that a cache mount is to begin with",
			files: `
-- Dockerfile --
FROM BASE
RUN --mount=type=cache,target=/cache,from=BASE,source=/absent true
`,
			want: []string{"Dockerfile:2", ">>> RUN --mount=type=cache", "mount /cache", `"/absent"`, "not found"},
		},
		{
			name: "missing target",
			files: `
-- Dockerfile --
FROM scratch AS release
`,
			args: []string{"--target", "relase"},
			want: []string{`target stage "relase" could not be found`, "did you mean release?"},
		},
		{
			name: "privilege that was not asked for",
			files: `
-- Dockerfile --
FROM BASE
RUN --security=insecure true
`,
			want: []string{"security.insecure is not allowed", "--allow security.insecure"},
		},
		{
			name: "privilege that the daemon does not give",
			files: `
-- Dockerfile --
FROM scratch
`,
			args: []string{"--allow", "security.insecure"},
			want: []string{"security.insecure is not allowed", "start the daemon with --entitlement"},
		},
		{
			name: "unknown output",
			files: `
-- Dockerfile --
FROM scratch
COPY Dockerfile /
`,
			args: []string{"--output", "type=papyrus"},
			want: []string{`exporter "papyrus" could not be found`},
		},
		{
			name: "destination that is a file",
			files: `
-- Dockerfile --
FROM scratch
COPY Dockerfile /
`,
			args: []string{"--output", "/etc/passwd"},
			want: []string{"/etc/passwd", "directory"},
		},
		{
			name: "empty Dockerfile",
			files: `
-- Dockerfile --
# nothing
`,
			want: []string{"Dockerfile", "no instructions"},
		},
		{
			name: "no Dockerfile",
			files: `
-- other --
`,
			want: []string{"no Dockerfile", "--file"},
		},
		{
			name: "frontend that does not exist",
			files: `
-- Dockerfile --
# syntax=NOBODY/frontend
FROM scratch
`,
			want: []string{"Dockerfile:1", ">>> # syntax=NOBODY/frontend"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := b.with(t)
			atNobody := strings.NewReplacer("NOBODY", nobody)
			dir := b.files(atNobody.Replace(c.files))
			args := []string{"build"}
			for _, arg := range c.args {
				args = append(args, atNobody.Replace(arg))
			}
			out := try(b.daemon.Client("kiln", append(args, dir)...))
			b.fails(out)
			for _, want := range c.want {
				if want = atNobody.Replace(want); !strings.Contains(out.stderr, want) {
					t.Errorf("%q is not in\n%s", want, out.stderr)
				}
			}
		})
	}
	b.idle()
}

// TestGarbageDefinitions sends what is not a definition. The daemon refuses it
// and goes on.
func TestGarbageDefinitions(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	for name, text := range map[string]string{
		"nothing":        "",
		"text":           "this is not a definition\n",
		"an empty field": "\x0a\x00",
		"a broken op":    "\x0a\x04\xff\xff\xff\xff",
		"a long field":   "\x0a\xff\xff\xff\xff\x0f",
	} {
		t.Run(name, func(t *testing.T) {
			cmd := b.daemon.Client("buildctl", "build")
			cmd.Stdin = strings.NewReader(text)
			out := try(cmd)
			b.with(t).fails(out)
			if strings.Contains(out.stderr, "Unavailable") || strings.Contains(out.stderr, "panic") {
				t.Errorf("the daemon broke:\n%s", out.stderr)
			}
		})
	}
	b.idle()
}

func TestDaemonThatIsNotThere(t *testing.T) {
	t.Parallel()
	addr := "unix://" + filepath.Join(testbed.Dir(t), "none.sock")
	out := try(exec.Command("kiln", "--addr", addr, "du"))
	for _, want := range []string{addr[len("unix://"):], "no such file or directory"} {
		if out.err == nil || !strings.Contains(out.stderr, want) {
			t.Errorf("%v: %q is not in\n%s", out.err, want, out.stderr)
		}
	}
}

// fails checks that a program ended with an error and said what it is.
func (b *bed) fails(out output) {
	b.Helper()
	if out.err == nil {
		b.Fatalf("no error\n%s", out.stderr)
	}
	if !strings.Contains(out.stderr, "error: ") {
		b.Errorf("no error is shown:\n%s", out.stderr)
	}
}
