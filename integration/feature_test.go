package integration

import (
	"maps"
	"os"
	"strings"
	"testing"
)

// TestFeatures builds small things with one flag or one instruction each, and
// looks at the files that come out.
func TestFeatures(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	for _, c := range []struct {
		name  string
		files string   // a context, see bed.files
		args  []string // of kiln build; CONTEXT stands for the context's folder
		stdin string
		want  map[string]string // files by path
	}{
		{
			name: "run and copy",
			files: `
-- Dockerfile --
FROM BASE AS made
WORKDIR /room
COPY . .
RUN tr a-z A-Z < in/hello > loud && ln -s loud link
FROM scratch
COPY --from=made /room/loud /room/link /out/
COPY in/empty /
-- in/hello --
hello
-- in/empty --
`,
			want: map[string]string{"out/loud": "HELLO\n", "out/link": "HELLO\n", "empty": ""},
		},
		{
			name: "arguments and environment",
			files: `
-- Dockerfile --
ARG IMAGE=BASE
FROM ${IMAGE} AS made
ARG WHO=nobody
ENV GREETING="good day"
USER nobody
RUN echo "$GREETING $WHO" > /tmp/out && id -un >> /tmp/out
FROM scratch
COPY --from=made /tmp/out /
`,
			args: []string{"--build-arg", "WHO=world"},
			want: map[string]string{"out": "good day world\nnobody\n"},
		},
		{
			name: "target",
			files: `
-- Dockerfile --
FROM scratch AS first
COPY first /
FROM BASE AS never
RUN exit 1
FROM scratch AS last
COPY last /
-- first --
-- last --
`,
			args: []string{"--target", "first"},
			want: map[string]string{"first": ""},
		},
		{
			name: "here-document",
			files: `
-- Dockerfile --
FROM BASE AS made
RUN <<END
echo one > /out
echo two >> /out
END
FROM scratch
COPY --from=made /out /
COPY <<"END" /inline
$as it is
END
`,
			want: map[string]string{"out": "one\ntwo\n", "inline": "$as it is\n"},
		},
		{
			name: "ignore file",
			files: `
-- Dockerfile --
FROM scratch
COPY . /
-- .dockerignore --
*
!kept
kept/*.tmp
-- kept/file --
-- kept/file.tmp --
-- left --
`,
			want: map[string]string{"kept/file": ""},
		},
		{
			name: "Dockerfile on standard input",
			files: `
-- file --
from the context
`,
			args:  []string{"--file", "-"},
			stdin: "FROM scratch\nCOPY file /\n",
			want:  map[string]string{"file": "from the context\n"},
		},
		{
			name: "Containerfile elsewhere",
			files: `
-- docker/Containerfile.prod --
FROM scratch
COPY file /
-- file --
`,
			args: []string{"--file", "CONTEXT/docker/Containerfile.prod"},
			want: map[string]string{"file": ""},
		},
		{
			name: "secret from the environment",
			files: `
-- Dockerfile --
FROM BASE AS made
RUN --mount=type=secret,id=token tr a-z A-Z < /run/secrets/token > /out
RUN --mount=type=secret,id=token,env=TOKEN echo "$TOKEN" | wc -c >> /out
RUN ls /run/secrets 2> /dev/null | wc -l >> /out
FROM scratch
COPY --from=made /out /
`,
			args: []string{"--secret", "id=token,env=KILN_TEST_TOKEN"},
			want: map[string]string{"out": "SESAME7\n0\n"},
		},
		{
			name: "secret from a file",
			files: `
-- Dockerfile --
FROM BASE AS made
RUN --mount=type=secret,id=token,target=/token,uid=65534,mode=0400 stat -c '%u %a' /token > /out && tr a-z A-Z < /token >> /out
FROM scratch
COPY --from=made /out /
-- .dockerignore --
token
-- token --
sesame
`,
			args: []string{"--secret", "id=token,src=CONTEXT/token"},
			want: map[string]string{"out": "65534 400\nSESAME\n"},
		},
		{
			name: "further context",
			files: `
-- main/Dockerfile --
FROM scratch
COPY --from=other file /
COPY --from=BASE /etc/group /
-- other/file --
from elsewhere
`,
			args: []string{"--file", "CONTEXT/main/Dockerfile", "--build-context", "other=CONTEXT/other"},
			want: map[string]string{"file": "from elsewhere\n", "group": "root:x:0:\nnobody:x:65534:\n"},
		},
		{
			name: "no network",
			files: `
-- Dockerfile --
FROM BASE AS made
RUN --network=none ls /sys/class/net > /out
FROM scratch
COPY --from=made /out /
`,
			want: map[string]string{"out": "lo\n"},
		},
		{
			name: "hosts",
			files: `
-- Dockerfile --
FROM BASE AS made
RUN grep example.test /etc/hosts > /out
FROM scratch
COPY --from=made /out /
`,
			args: []string{"--add-host", "example.test:192.0.2.7"},
			want: map[string]string{"out": "192.0.2.7\texample.test\n"},
		},
		{
			name: "owner, mode and link",
			files: `
-- Dockerfile --
FROM BASE AS made
COPY --chown=nobody:nobody --chmod=640 file /a
COPY --link file /b
RUN stat -c '%U %a' /a > /out && stat -c '%u' /b >> /out
FROM scratch
COPY --from=made /out /
-- file --
`,
			want: map[string]string{"out": "nobody 640\n0\n"},
		},
		{
			name: "mounts",
			files: `
-- Dockerfile --
FROM BASE AS tools
RUN mkdir /tools && echo 'echo from the tool' > /tools/tool
FROM BASE AS made
RUN --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=bind,target=/src,rw \
    --mount=type=tmpfs,target=/scratch \
    sh /tools/tool > /out && echo lost > /src/file && echo lost > /scratch/file
RUN ls -d /tools/* /src/* /scratch/* >> /out 2> /dev/null; true
FROM scratch
COPY --from=made /out /
-- file --
`,
			want: map[string]string{"out": "from the tool\n"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := b.with(t)
			dir := b.files(c.files)
			out := b.TempDir()
			args := []string{"build", "--output", out}
			for _, arg := range c.args {
				args = append(args, strings.ReplaceAll(arg, "CONTEXT", dir))
			}
			cmd := b.daemon.Client("kiln", append(args, dir)...)
			cmd.Env = append(os.Environ(), "KILN_TEST_TOKEN=sesame")
			cmd.Stdin = strings.NewReader(c.stdin)
			b.run(cmd)
			if got := b.tree(out); !maps.Equal(got, c.want) {
				t.Errorf("got %q\nwant %q", got, c.want)
			}
		})
	}
}
