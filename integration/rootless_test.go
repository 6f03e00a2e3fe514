package integration

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

// ordinaryUser adds a user to the machine, with a home and a range of subordinate ids,
// for as long as the test runs.
func ordinaryUser(b *bed) *user.User {
	b.Helper()
	name := fmt.Sprintf("kiln%d", os.Getpid())
	b.run(exec.Command("useradd", "--create-home", name))
	b.Cleanup(func() {
		if out, err := exec.Command("userdel", "--remove", name).CombinedOutput(); err != nil && !strings.Contains(string(out), "mail spool") {
			b.Errorf("userdel: %v: %s", err, out)
		}
	})
	u, err := user.Lookup(name)
	b.must(err)
	return u
}

// TestRootless builds as an ordinary user: daemon, client and steps have no rights on
// the machine. Nothing is left of them.
func TestRootless(t *testing.T) {
	t.Parallel()
	for snapshotter, want := range map[string]string{"auto": "overlayfs", "fuse-overlayfs": "fuse-overlayfs"} {
		t.Run(snapshotter, func(t *testing.T) { rootless(&bed{T: t}, snapshotter, want) })
	}
}

func rootless(b *bed, snapshotter, want string) {
	u := ordinaryUser(b)
	programs, files := testbed.Dir(b), testbed.Dir(b)
	for _, dir := range []string{programs, files} {
		b.must(os.Chmod(dir, 0o755))
	}
	copyTo := func(dir, name string) {
		program, err := exec.LookPath(name)
		b.must(err)
		data, err := os.ReadFile(program)
		b.must(err)
		b.must(os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o755))
	}
	for _, name := range []string{"kilnd", "runc", "rootlesskit", "buildctl"} {
		copyTo(programs, name)
	}
	copyTo(files, "busybox")
	copyTo(files, filepath.Join(b.foreign(), "foreign"))
	b.must(os.WriteFile(filepath.Join(files, "foreign.dockerfile"), []byte("FROM scratch\nCOPY foreign /bin/foreign\nRUN [\"/bin/foreign\"]\n"), 0o644))
	b.must(os.WriteFile(filepath.Join(files, "Dockerfile"), []byte(`
FROM scratch
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]
RUN busybox id -u; busybox touch /x; busybox chown 33:44 /x; busybox cat /proc/self/uid_map
RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=s busybox stat -c %u:%g /x; busybox cat /run/secrets/s; echo x > /c/x
RUN --network=none busybox ip -o link
RUN ! busybox mknod /disk b 8 0 && ! busybox touch /proc/sys/kernel/panic
`), 0o644))
	run := filepath.Join(u.HomeDir, "run")
	as := func(args ...string) *exec.Cmd {
		cmd := exec.Command("setpriv", append([]string{"--reuid", u.Uid, "--regid", u.Gid, "--init-groups", "env", "-i",
			"HOME=" + u.HomeDir, "XDG_RUNTIME_DIR=" + run, "PATH=" + programs + ":/usr/bin:/bin:/usr/sbin:/sbin", "S=secret"}, args...)...)
		cmd.Dir = u.HomeDir
		return cmd
	}
	b.run(as("mkdir", "-m", "700", run))

	address := filepath.Join(run, "kiln", "kilnd.sock")
	d := &testbed.Daemon{Program: "unshare", Dir: testbed.Dir(b), Addr: "unix://" + address}
	d.Args = as("rootlesskit", "--net=host", "kilnd", "--backend", "embedded", "--snapshotter", snapshotter).Args
	// All may open /dev/fuse, as on most machines.
	fuse := filepath.Join(programs, "fuse")
	b.must(syscall.Mknod(fuse, syscall.S_IFCHR, 10<<8|229))
	b.must(os.Chmod(fuse, 0o666))
	d.Args = append([]string{"--mount", "sh", "-c", `mount --bind "$0" /dev/fuse && exec "$@"`, fuse}, d.Args...)
	d.Start(b.T)
	client := func(args ...string) *exec.Cmd { return as(append([]string{"buildctl", "--addr", d.Addr}, args...)...) }
	out := b.run(client("build", "--progress=plain", "--frontend=dockerfile.v0", "--local=context="+files, "--local=dockerfile="+files,
		"--secret=id=s,env=S", "--output=type=oci,dest="+filepath.Join(u.HomeDir, "image.tar")))
	for _, want := range []string{"0\n", " " + u.Uid + " ", "33:44", "secret"} {
		if !strings.Contains(out.stderr, want) {
			b.Errorf("no %q in\n%s", want, out.stderr)
		}
	}
	info, err := os.Stat(filepath.Join(u.HomeDir, "image.tar"))
	b.must(err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; strconv.Itoa(int(uid)) != u.Uid {
		b.Errorf("the image is user %d's", uid)
	}
	if got := b.run(client("debug", "workers", "-v")).stdout; !strings.Contains(got, "\t"+want+"\n") {
		b.Errorf("workers:\n%s", got)
	}
	other := client("build", "--progress=plain", "--frontend=dockerfile.v0", "--local=context="+files, "--local=dockerfile="+files,
		"--opt=filename=foreign.dockerfile", "--opt=platform=linux/arm64")
	if got := b.run(other).stderr; !strings.Contains(got, "this is arm64") {
		b.Errorf("an emulated step:\n%s", got)
	}
	if got := try(client("build", "--frontend=dockerfile.v0", "--allow=security.insecure", "--local=context="+files, "--local=dockerfile="+files)); got.err == nil {
		b.Error("an entitlement was granted that isn't configured")
	}
	b.must(d.Stop())
	b.must(testbed.Eventually(endOfBuild, func() error {
		left, _ := exec.Command("pgrep", "--uid", u.Uid, "--list-full").Output() // fails if there are none
		if len(left) > 0 {
			return fmt.Errorf("processes are left:\n%s", left)
		}
		return nil
	}))
}
