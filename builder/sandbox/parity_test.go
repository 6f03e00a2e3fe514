package sandbox_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
)

// look is a script that shows what a process has and may do.
const look = `
id; pwd; hostname; umask; echo "$HOME $PATH $X"; ulimit -a
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|SigIgn|SigBlk|SigCgt)' /proc/self/status
cut -d' ' -f5- /proc/self/mountinfo | sed 's/ master:[0-9]*//; s/ shared:[0-9]*//'
for n in cgroup ipc mnt net pid uts user; do readlink /proc/self/ns/$n; done
ls -l /dev /dev/pts | sed 's/ [A-Z][a-z][a-z] .* / /'
ls /proc/self/fd; ls /sys/fs/cgroup; sed 's/:.*kiln.*/:own/' /proc/self/cgroup
for f in /sys/fs/cgroup/*; do case $f in *stat|*.pressure|*.peak|*.events*|*.current|*.procs|*.threads) ;; *) echo $f $(cat $f 2>&1) ;; esac; done
for f in /proc/kcore /proc/keys /proc/timer_list /sys/firmware /proc/scsi /proc/acpi; do ls -ld $f | cut -c1-10; done
for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_seqnum /proc/irq/x; do (echo 1 > $f) 2>&1; done
mount -t tmpfs none /mnt 2>&1; umount /proc 2>&1; hostname x 2>&1; mknod /blk b 7 0 2>&1 && (: </blk) 2>&1; dmesg >/dev/null 2>&1; echo dmesg $?
chroot / true 2>&1; unshare -m true 2>&1; unshare -U true 2>&1; setsid true 2>&1; cat /proc/self/attr/current 2>&1; true
`

var (
	inodes = regexp.MustCompile(`\[[0-9]+\]`)
	ids    = regexp.MustCompile(`parity-[a-z]+-[0-9]+`)
)

// TestParity compares what processes see and may do with what they do under runc.
func TestParity(t *testing.T) {
	t.Parallel()
	outside, _ := newLocal(t, nil)
	ours, _ := newLocal(t, native(t))
	dir := t.TempDir()
	for name, change := range map[string]func(*sandbox.Spec){
		"usual":    func(*sandbox.Spec) {},
		"insecure": func(s *sandbox.Spec) { s.Security = sandbox.Insecure },
		"user":     func(s *sandbox.Spec) { s.User, s.Cwd = "7:8", "/work" },
		"no net":   func(s *sandbox.Spec) { s.Network = sandbox.NetworkNone },
		"readonly": func(s *sandbox.Spec) { s.ReadonlyRoot = true },
		"terminal": func(s *sandbox.Spec) { s.Terminal = true },
		"mounts": func(s *sandbox.Spec) {
			s.Mounts = []sandbox.Mount{
				{Type: "bind", Source: dir, Target: "/a", Options: []string{"rbind", "ro", "nosuid"}},
				{Type: "bind", Source: dir, Target: "/b", Options: []string{"bind", "rprivate", "noexec"}},
				{Type: "tmpfs", Source: "tmpfs", Target: "/c/d", Options: []string{"size=1m", "mode=1777", "noatime"}},
				{Type: "tmpfs", Source: "tmpfs", Target: "/etc"},
			}
		},
		"limits": func(s *sandbox.Spec) {
			s.Ulimits = []sandbox.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}, {Name: "core", Soft: 0, Hard: 0}}
			s.Resources = sandbox.Resources{
				Memory: 64 << 20, MemorySwap: 96 << 20, CPUPeriod: 50000, CPUQuota: 25000, CPUShares: 2048, CpusetCPUs: "0", Pids: 50, IOWeight: 500,
			}
		},
		"env": func(s *sandbox.Spec) { s.Env = []string{"PATH=/bin", "X=1", "HOME=", "X=2"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			see := func(r sandbox.Runner) string {
				s := sandbox.Spec{
					ID: fmt.Sprintf("parity-%s-%d", strings.ReplaceAll(name, " ", ""), os.Getpid()), Root: sandboxtest.NewRoot(t),
					Args: []string{"/bin/busybox", "sh", "-c", look}, Env: []string{"PATH=/bin"},
				}
				for _, applet := range []string{"cut", "sed", "readlink", "chroot", "unshare", "setsid", "dmesg"} {
					if err := os.Symlink("busybox", s.Root+"/bin/"+applet); err != nil {
						t.Fatal(err)
					}
				}
				change(&s)
				var out, errs strings.Builder
				if err := r.Run(t.Context(), s, sandbox.IO{Stdout: &out, Stderr: &errs}, nil); err != nil {
					t.Errorf("run: %v", err)
				}
				text := strings.ReplaceAll(out.String()+errs.String(), s.Root, "ROOT")
				return ids.ReplaceAllString(inodes.ReplaceAllString(text, "[]"), "ID")
			}
			compare(t, see(outside), see(ours))
		})
	}
}

// compare reports lines that only one of them has, but for order: filesystems list
// as they like.
func compare(t *testing.T, runc, native string) {
	t.Helper()
	a, b := strings.Split(runc, "\n"), strings.Split(native, "\n")
	for _, line := range a {
		if !slices.Contains(b, line) {
			t.Errorf("only under runc: %q", line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			t.Errorf("only under kiln-init: %q", line)
		}
	}
}
