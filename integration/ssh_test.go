package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestSSH asks a step's agent for its keys: the agent of this machine, one that
// kiln makes of a key file, and none.
func TestSSH(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	dir := b.files(`
-- Dockerfile --
FROM BASE AS made
COPY tools /
RUN --mount=type=ssh ssh-add -l > /out
FROM scratch
COPY --from=made /out /
`)
	b.copyProgram("ssh-add", filepath.Join(dir, "tools"))
	keys := testbed.Dir(t)
	key := filepath.Join(keys, "key")
	b.run(exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the test's key", "-f", key))
	agent := b.startAgent(filepath.Join(keys, "agent"))
	add := exec.Command("ssh-add", "-q", key)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+agent)
	b.run(add)
	for name, ssh := range map[string]string{"agent": "default", "named agent": "default=" + agent, "key": "default=" + key} {
		t.Run(name, func(t *testing.T) {
			b := b.with(t)
			out := t.TempDir()
			cmd := b.daemon.Client("kiln", "build", "--no-cache", "--ssh", ssh, "--output", out, dir)
			cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+agent)
			b.run(cmd)
			if got := b.tree(out)["out"]; !strings.Contains(got, "ED25519") || strings.Count(got, "\n") != 1 {
				t.Errorf("the step sees the keys %q", got)
			}
		})
	}
	t.Run("several", func(t *testing.T) {
		b := b.with(t)
		other := filepath.Join(testbed.Dir(t), "other")
		b.run(exec.Command("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", "another key", "-f", other))
		two := b.files(`
-- Dockerfile --
FROM BASE AS made
COPY tools /
RUN --mount=type=ssh,id=first,target=/first --mount=type=ssh,id=second,target=/second,mode=0666,uid=65534,gid=65534 \
    SSH_AUTH_SOCK=/first ssh-add -l > /out && SSH_AUTH_SOCK=/second ssh-add -l >> /out && stat -c '%u:%g %a' /first /second >> /out
FROM scratch
COPY --from=made /out /
`)
		b.run(exec.Command("cp", "-a", filepath.Join(dir, "tools"), two))
		out := t.TempDir()
		b.build("--ssh", "first="+agent, "--ssh", "second="+other, "--output", out, two)
		lines := strings.Split(b.tree(out)["out"], "\n")
		if len(lines) != 5 || !strings.Contains(lines[0], "ED25519") || !strings.Contains(lines[1], "ECDSA") || lines[2] != "0:0 600" || lines[3] != "65534:65534 666" {
			t.Errorf("the step sees %q", lines)
		}
	})
	t.Run("none", func(t *testing.T) {
		out := try(b.daemon.Client("kiln", "build", "--no-cache", dir))
		b.with(t).fails(out)
		if !strings.Contains(out.stderr, "Dockerfile:3") || !strings.Contains(strings.ToLower(out.stderr), "ssh") {
			t.Errorf("the error is\n%s", out.stderr)
		}
	})
	b.idle()
}

// startAgent starts an agent without keys on a socket, until the test ends.
func (b *bed) startAgent(socket string) string {
	b.Helper()
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	b.must(cmd.Start())
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	b.must(testbed.Eventually(startOfStep, func() error {
		_, err := os.Stat(socket)
		return err
	}))
	return socket
}

// copyProgram copies a program of this machine below dir, with its libraries
// where they are looked for.
func (b *bed) copyProgram(name, dir string) {
	b.Helper()
	path, err := exec.LookPath(name)
	b.must(err)
	files := map[string]string{path: "/bin/" + name}
	for word := range strings.FieldsSeq(b.run(exec.Command("ldd", path)).stdout) {
		if strings.HasPrefix(word, "/") {
			files[word] = word
		}
	}
	for from, to := range files {
		content, err := os.ReadFile(from)
		b.must(err)
		b.must(os.MkdirAll(filepath.Dir(filepath.Join(dir, to)), 0o755))
		b.must(os.WriteFile(filepath.Join(dir, to), content, 0o755))
	}
}
