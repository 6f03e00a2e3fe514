package integration

import (
	"os"
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
			want: []string{"Dockerfile:2", ">>> RUN --mount=type=secret", "token", "not found"},
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
			want: []string{"security.insecure is not allowed"},
		},
		{
			name: "privilege that the daemon does not give",
			files: `
-- Dockerfile --
FROM scratch
`,
			args: []string{"--allow", "security.insecure"},
			want: []string{"security.insecure is not allowed"},
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

// TestFullDisk builds more than fits on the disk that the daemon's root is on.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	b := onSmallDisk(t)
	tooMuch := b.files(`
-- Dockerfile --
FROM BASE
RUN true
RUN dd if=/dev/zero of=/large bs=1M count=200
`)
	out := try(b.daemon.Client("kiln", "build", tooMuch))
	b.fails(out)
	for _, want := range []string{"Dockerfile:3", ">>> RUN dd", "No space left on device"} {
		if !strings.Contains(out.stderr, want) {
			t.Errorf("%q is not in\n%s", want, out.stderr)
		}
	}
	b.kiln("prune")
	b.build(b.files(`
-- Dockerfile --
FROM BASE
RUN dd if=/dev/zero of=/small bs=1M count=2
`))
	b.idle()
}

// TestFullDiskWhileReceiving sends a context that does not fit.
func TestFullDiskWhileReceiving(t *testing.T) {
	t.Parallel()
	b := onSmallDisk(t)
	dir := b.files(`
-- Dockerfile --
FROM scratch
COPY large /
`)
	b.must(os.WriteFile(filepath.Join(dir, "large"), make([]byte, 100<<20), 0o644))
	out := try(b.daemon.Client("kiln", "build", dir))
	b.fails(out)
	if !strings.Contains(out.stderr, "no space left on device") {
		t.Errorf("the cause is not in\n%s", out.stderr)
	}
	b.idle()
}

// onSmallDisk starts a daemon with a root that is a disk of 64 MiB.
func onSmallDisk(t *testing.T) *bed {
	t.Helper()
	dir := testbed.Dir(t)
	disk, root := filepath.Join(dir, "disk"), filepath.Join(dir, "root")
	for _, step := range []func() error{
		func() error { return os.WriteFile(disk, nil, 0o600) },
		func() error { return os.Truncate(disk, 64<<20) },
		func() error { return os.Mkdir(root, 0o700) },
		func() error { return exec.Command("mkfs.ext4", "-q", "-m", "0", disk).Run() },
		func() error { return exec.Command("mount", "-o", "loop", disk, root).Run() },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := exec.Command("umount", root).Run(); err != nil {
			t.Errorf("unmounting the small disk: %v", err)
		}
	})
	return &bed{t, testbed.StartDaemonIn(t, dir, "--backend", "embedded"), nil}
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
