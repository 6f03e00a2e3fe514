package graph

import (
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
)

func TestLineage(t *testing.T) {
	image := llb.Image("docker.io/library/base:latest")
	other := llb.Image("docker.io/library/other:latest").Run(llb.Shlex("make tool")).Root()
	run := image.Run(llb.Shlex("use tool"), llb.AddMount("/tool", other, llb.Readonly))
	for name, tc := range map[string]struct {
		state llb.State
		want  string
	}{
		"a source":           {image, "docker-image://docker.io/library/base:latest"},
		"a copy of another":  {image.File(llb.Copy(other, "/a", "/b")), "copy{src=/a, dest=/b} < docker-image://docker.io/library/base:latest"},
		"several actions":    {run.Root().File(llb.Mkdir("/x", 0o755).Mkfile("/x/y", 0o644, nil)), "mkdir{path=/x}, mkfile{path=/x/y} < use tool < docker-image://docker.io/library/base:latest"},
		"an output of mount": {run.AddMount("/out", other), "use tool < make tool < docker-image://docker.io/library/other:latest"},
		"from nothing":       {llb.Scratch().File(llb.Mkdir("/x", 0o755)), "mkdir{path=/x}"},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := Load(marshal(t, tc.state), amd64)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, s := range g.Lineage() {
				names = append(names, s.Meta.Name)
			}
			if got := strings.Join(names, " < "); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}
