package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// seen is a build whose image tells what its steps saw, in all kinds of mounts, and has
// what only some processes may make.
const seen = `
-- Dockerfile --
FROM BASE AS stage
RUN mkdir -p /tree/dir /gone/dir && echo a > /tree/dir/file && chown -R 12:34 /tree && chmod 2770 /tree/dir && ln /tree/dir/file /tree/hard
RUN echo user:x:1000:1000::/home:/bin/sh >> /etc/passwd
FROM stage AS made
COPY tools /
COPY --chown=7:8 words /words
RUN mkdir /suid /capped && cp /bin/busybox /suid/id && chmod 4755 /suid/id && cp /bin/busybox /capped/cat && setcap cap_net_bind_service=ep /capped/cat
RUN chown 65534:65533 /words && rm -r /gone && mkdir /gone && mv /tree/dir /tree/moved && mkfifo /fifo
RUN stat -c '%n %u:%g %a %h' /words /gone /fifo /tree /tree/* /tree/*/* /root /etc/passwd /etc/hosts /etc/resolv.conf /tmp /suid/id /capped/cat > /list
RUN stat -c "%n %u:%g %a" / /etc /dev /dev/shm /dev/pts >> /list
USER user
WORKDIR /made/for/user
RUN touch mine && id > id && /capped/cat /proc/self/status | grep Cap > caps && /suid/id > suid
USER root
RUN --mount=type=secret,id=word,uid=5,gid=6,mode=0440 --mount=type=ssh,uid=1000,mode=0600 --mount=type=tmpfs,target=/mem,size=1m \
    --mount=target=/context --mount=from=stage,source=/tree/dir,target=/selected --mount=from=stage,target=/writable,rw \
    --mount=type=cache,target=/cache --mount=type=cache,target=/seeded,uid=1000,mode=0751 <<END
set -e
cat /run/secrets/word /context/words > /read
touch /mem/a /writable/b /cache/c-$(ls /cache | wc -l) /seeded/d
chown 9:9 /cache/*
! touch /context/no
! touch /selected/no
stat -c '%n %u:%g %a' /run/secrets/word $SSH_AUTH_SOCK /mem /mem/a /context /context/words /selected /selected/file /writable/tree /writable/b /cache /cache/* /seeded /seeded/d > /mounts
ls /sys/class/net /proc/sys/net /sys/fs/cgroup > /dev/null
echo > /dev/null
head -c 3 /dev/zero > /zeros
echo said > /dev/stdout
END
RUN --network=none ls /sys/class/net > /interfaces && ping -c 1 127.0.0.1 > /dev/null
FROM scratch AS report
COPY --from=made /list /read /mounts /interfaces /zeros /made/for/user/ /
-- words --
pear
`

// TestRemappedUsers builds with users remapped by each engine and on each backend: the
// image is that of a daemon that doesn't remap them, and the processes are others.
func TestRemappedUsers(t *testing.T) {
	t.Parallel()
	plain := &bed{t, testbed.StartDaemon(t, "--backend", "embedded", "--entitlement", "network.host", "--network", "host"), nil}
	dir := plain.files(seen)
	plain.copyProgram("setcap", filepath.Join(dir, "tools"))
	want, saw := plain.buildSeen(dir)
	for name, start := range map[string]func(*testing.T) *bed{
		"kiln-init": func(t *testing.T) *bed { return remapping(t, "--backend", "embedded") },
		"bridge": func(t *testing.T) *bed {
			return remapping(t, "--backend", "embedded", "--network", "bridge", "--bridge-name", fmt.Sprint("kr", os.Getpid()), "--bridge-subnet", "10.98.0.0/16")
		},
		"runc": func(t *testing.T) *bed { return remapping(t, "--backend", "embedded", "--runtime", "runc") },
		"host": func(t *testing.T) *bed {
			c := testbed.StartContainerd(t)
			b := remapping(t, "--backend", "host", "--containerd-address", c.Socket)
			b.containerd = c
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t)
			got, sees := b.buildSeen(dir)
			if got != want {
				t.Errorf("the image is %s, and without other users %s", got, want)
			}
			for name, text := range saw {
				if sees[name] != text {
					t.Errorf("%s is\n%s\nand without other users\n%s", name, sees[name], text)
				}
			}
			if name != "bridge" { // which keeps its networks for a while
				b.idle()
			}
		})
	}
	plain.idle()
}

// remapping starts a daemon whose steps' root is user 300000 of the host.
func remapping(t *testing.T, args ...string) *bed {
	t.Helper()
	b := &bed{t, testbed.StartDaemon(t, append([]string{"--network", "host"}, append(args, "--entitlement", "network.host", "--user-remap", "0:300000:65536")...)...), nil}
	b.must(os.Chmod(b.daemon.Dir, 0o711)) // for OCI runtimes
	return b
}

// buildSeen builds the image, and again for what the steps saw, in the host's network and
// with the same cache mounts.
func (b *bed) buildSeen(dir string) (digest string, saw map[string]string) {
	b.Helper()
	word := filepath.Join(b.TempDir(), "word")
	b.must(os.WriteFile(word, []byte("secret\n"), 0o600))
	agent := b.startAgent(filepath.Join(testbed.Dir(b.T), "agent"))
	metadata := filepath.Join(b.TempDir(), "metadata.json")
	out := b.TempDir()
	for _, args := range [][]string{
		{"--target", "made", "--rewrite-timestamp", "--metadata-file", metadata},
		{"--target", "report", "--output", out, "--allow", "network.host", "--network", "host"},
	} {
		args = append(args, "--no-cache", "--secret", "id=word,src="+word, "--ssh", "default", dir)
		cmd := b.daemon.Client("kiln", append([]string{"build"}, args...)...)
		cmd.Env = append(os.Environ(), epoch, "SSH_AUTH_SOCK="+agent)
		b.run(cmd)
	}
	return imageDigest(b.T, metadata), b.tree(out)
}

// TestRemappedProcesses looks at a remapped step from outside, and kills the daemon.
func TestRemappedProcesses(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"kiln-init": nil, "runc": {"--runtime", "runc"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := remapping(t, append(args, "--backend", "embedded")...)
			word := fmt.Sprintf("%d%d", 1000000+os.Getpid(), len(name))
			dir := b.files(`
-- Dockerfile --
FROM BASE
RUN echo user:x:1000:1000::/home:/bin/sh >> /etc/passwd
USER user
RUN --mount=type=cache,target=/cache --mount=target=/context echo started; exec sleep ` + word + `
`)
			b.begin(dir)
			if ids := b.idsOf("sleep\x00" + word); ids != "Uid:\t301000\t301000\t301000\t301000 Gid:\t301000\t301000\t301000\t301000 CapEff:\t0000000000000000" {
				t.Errorf("on the host the step has %q", ids)
			}
			b.must(b.daemon.Kill())
			b.daemon.Start(t)
			b.must(testbed.Eventually(endOfBuild, b.noSteps))
			b.idle()
		})
	}
}

// idsOf is what the kernel says of the process with a command line that begins so.
func (b *bed) idsOf(command string) string {
	b.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	b.must(err)
	for _, file := range files {
		if text, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(text), command) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(file), "status"))
		b.must(err)
		return strings.Join(regexp.MustCompile(`(?m)^(Uid|Gid|CapEff):.*`).FindAllString(string(status), -1), " ")
	}
	b.Fatalf("there is no process %q", command)
	return ""
}

// TestInsecureIsNotRemapped: it shares a cache mount, seeded or not, with steps that are.
func TestInsecureIsNotRemapped(t *testing.T) {
	t.Parallel()
	b := remapping(t, "--backend", "embedded", "--entitlement", "security.insecure")
	dir := b.files(`
-- Dockerfile --
FROM BASE AS one
RUN --mount=type=cache,target=/cache --mount=type=cache,target=/seeded,uid=3 touch /cache/one /seeded/one && cat /proc/self/uid_map > /map
FROM BASE AS two
RUN --security=insecure --mount=type=cache,target=/cache --mount=type=cache,target=/seeded,uid=3 touch /cache/two /seeded/two && cat /proc/self/uid_map > /map
FROM BASE AS three
COPY --from=one /map /one
COPY --from=two /map /two
RUN --mount=type=cache,target=/cache --mount=type=cache,target=/seeded,uid=3 ls -ln /cache/* /seeded/* | tr -s " " | cut -d " " -f 3,4,9 > /caches
FROM scratch
COPY --from=three /one /two /caches /
`)
	out := b.TempDir()
	b.build("--allow", "security.insecure", "--output", out, dir)
	got := b.tree(out)
	if one, two := strings.Fields(got["one"]), strings.Fields(got["two"]); strings.Join(one, " ") != "0 300000 65536" || strings.Join(two, " ") != "0 0 4294967295" {
		t.Errorf("the users of the steps are %q and %q", one, two)
	}
	if got["caches"] != "0 0 /cache/one\n0 0 /cache/two\n0 0 /seeded/one\n0 0 /seeded/two\n" {
		t.Errorf("the cache mounts have\n%s", got["caches"])
	}
	b.idle()
}

// TestBadRemap: a daemon that can't remap users doesn't start.
func TestBadRemap(t *testing.T) {
	t.Parallel()
	for spec, want := range map[string]string{"no-such-user": "/etc/subuid", "0:300000:100": "only 100 ids"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "kilnd", "--root", t.TempDir(), "--addr", "unix://"+filepath.Join(testbed.Dir(t), "s"), "--backend", "embedded", "--user-remap", spec)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "sandbox.userRemap") || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, want %q in\n%s", spec, err, want, out)
		}
	}
}
