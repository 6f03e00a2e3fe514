package sandboxtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder/event/usage"
	"github.com/kiln-build/kiln/builder/sandbox"
	"golang.org/x/sys/unix"
)

var isolation = map[string]test{
	"processes":        testProcesses,
	"usual mounts":     testUsualMounts,
	"capabilities":     testCapabilities,
	"no new priv":      testNoNewPrivileges,
	"seccomp":          testSeccomp,
	"masked":           testMasked,
	"insecure":         testInsecure,
	"network none":     testNetworkNone,
	"network host":     testNetworkHost,
	"ulimit":           testUlimit,
	"unlimited ulimit": testUlimitTooHigh,
	"limits":           testLimits,
	"memory limit":     testMemoryLimit,
	"I/O limit":        testIOLimit,
	"usage":            testUsage,
	"cgroup parents":   testCgroupParents,
}

func testProcesses(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "echo $$; ls -d /proc/[0-9]* | wc -l; for n in mnt pid uts ipc; do ls -l /proc/self/ns/$n; done")
	got := mustOutput(t, r, s)
	if !strings.HasPrefix(got, "1\n") {
		t.Errorf("the first process is not 1: %q", got)
	}
	for _, ns := range []string{"mnt", "pid", "uts", "ipc"} {
		host, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(got, host) {
			t.Errorf("shares the host's %s", host)
		}
	}
}

func testUsualMounts(t *testing.T, r sandbox.Runner) {
	got := mustOutput(t, r, newSpec(t, "cat /proc/mounts; ls /dev; stat -c %a /dev/shm; test -e /run || echo no run"))
	for _, want := range []string{
		" /proc proc ", " /dev tmpfs ", " /dev/pts devpts ", " /dev/shm tmpfs ", " /dev/mqueue mqueue ",
		" /sys sysfs ro", " /sys/fs/cgroup ", " /etc/hosts ", " /etc/resolv.conf ", "\nnull\n", "\nurandom\n", "\nptmx\n", "1777", "no run",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	for line := range strings.Lines(got) {
		if strings.Contains(line, " /sys/fs/cgroup") && !strings.HasPrefix(line, "tmpfs") && !strings.Contains(line, " ro,") && !strings.Contains(line, " ro ") {
			t.Errorf("writable: %s", line)
		}
	}
}

// dockerCaps are the capabilities of a sandboxed root: CHOWN, DAC_OVERRIDE, FOWNER,
// FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD,
// AUDIT_WRITE, SETFCAP.
const dockerCaps = "00000000a80425fb"

const noCaps = "0000000000000000"

func testCapabilities(t *testing.T, r sandbox.Runner) {
	for user, want := range map[string]string{"": dockerCaps, "1000:1000": noCaps} {
		s := newSpec(t, "grep Cap /proc/self/status")
		s.User = user
		got := mustOutput(t, r, s)
		for name, value := range map[string]string{"CapInh": noCaps, "CapPrm": want, "CapEff": want, "CapBnd": dockerCaps, "CapAmb": noCaps} {
			if !strings.Contains(got, name+":\t"+value) {
				t.Errorf("user %q: %s is not %s:\n%s", user, name, value, got)
			}
		}
	}
}

// testNoNewPrivileges: sudo and the like work in a build.
func testNoNewPrivileges(t *testing.T, r sandbox.Runner) {
	if got := mustOutput(t, r, newSpec(t, "grep NoNewPrivs /proc/self/status")); got != "NoNewPrivs:\t0" {
		t.Errorf("got %q", got)
	}
}

func testSeccomp(t *testing.T, r sandbox.Runner) {
	got := mustOutput(t, r, newSpec(t, "grep Seccomp: /proc/self/status; mount -t tmpfs t /bin 2>&1 || true"))
	if !strings.HasPrefix(got, "Seccomp:\t2\n") || !strings.Contains(got, "not permitted") && !strings.Contains(got, "denied") {
		t.Errorf("got %q", got)
	}
}

func testMasked(t *testing.T, r sandbox.Runner) {
	got := mustOutput(t, r, newSpec(t, `
wc -c < /proc/keys
wc -c < /proc/timer_list
ls /sys/firmware | wc -l
echo x > /proc/sys/kernel/hostname && echo WRITTEN
echo x > /proc/sysrq-trigger && echo WRITTEN
mknod /d b 8 0; head -c 1 /d >/dev/null && echo READ
mknod /v b 254 0; head -c 1 /v >/dev/null && echo READ
true`))
	if !strings.HasPrefix(got, "0\n0\n0\n") || strings.Contains(got, "WRITTEN") || strings.Contains(got, "READ") {
		t.Errorf("got %q", got)
	}
}

func testInsecure(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, `
grep -e Seccomp: -e CapEff /proc/self/status
mkdir /m && mount -t tmpfs t /m && echo mounted
ls /dev/kmsg /dev/fuse /dev/loop0
grep -e ' /sys sysfs rw' -e ' /proc/sys ' /proc/mounts
ls /proc/keys /sys/kernel >/dev/null && echo unmasked
hostname other && hostname`)
	s.Security = sandbox.Insecure
	wanted := []string{"Seccomp:\t0", "mounted", "/dev/kmsg", "/dev/fuse", "/dev/loop0", " /sys sysfs rw", "unmasked", "other", permitted(t)}
	if unified() {
		s.Args[2] += `
cd /sys/fs/cgroup && mkdir -p a/b && echo 0 > a/cgroup.procs && echo +pids > cgroup.subtree_control && echo 9 > a/pids.max
cat a/pids.max /proc/self/cgroup`
		wanted = append(wanted, "\n9\n0::/a")
	}
	got := mustOutput(t, r, s)
	for _, want := range wanted {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, dockerCaps) || strings.Contains(got, " /proc/sys ") {
		t.Errorf("restricted:\n%s", got)
	}
}

// permitted is the line of /proc with this process' capabilities, as those that are in
// effect are shown.
func permitted(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "CapPrm:")
	caps, _, _ := strings.Cut(rest, "\n")
	return "CapEff:" + caps
}

// unified tells whether there is cgroup v2 alone.
func unified() bool { return exists("/sys/fs/cgroup/cgroup.controllers") }

func testNetworkNone(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "ip -o link; ip -o -4 addr; ip route")
	s.Network = sandbox.NetworkNone
	got := mustOutput(t, r, s)
	if !strings.Contains(got, "lo") || !strings.Contains(got, "127.0.0.1") || !strings.Contains(got, "UP") {
		t.Errorf("no loopback: %q", got)
	}
	for line := range strings.Lines(got) {
		if !strings.Contains(line, "lo") && strings.Contains(line, "UP") {
			t.Errorf("an interface that is up: %q", line)
		}
	}
}

func testNetworkHost(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "ls -l /proc/self/ns/net")
	s.Network = sandbox.NetworkHost
	host, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if got := mustOutput(t, r, s); !strings.HasSuffix(got, host) {
		t.Errorf("in %q, want %s", got, host)
	}
}

func testUlimit(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hs")
	s.Ulimits = []sandbox.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}, {Name: "CORE", Soft: 0, Hard: 0}}
	got := strings.Split(mustOutput(t, r, s), "\n")
	if len(got) != 4 || got[0] != "100" || got[1] != "200" || got[2] != "0" {
		t.Errorf("limits %q", got)
	}
	s = newSpec(t, "true")
	s.Ulimits = []sandbox.Ulimit{{Name: "nofile", Soft: 300, Hard: 200}}
	if _, err := output(t, r, s); err == nil {
		t.Error("a soft limit above the hard one was accepted")
	}
}

// testUlimitTooHigh works where this process may raise its limits, and says why not
// elsewhere.
func testUlimitTooHigh(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "ulimit -Hl")
	s.Ulimits = []sandbox.Ulimit{{Name: "memlock", Soft: -1, Hard: -1}}
	got, err := output(t, r, s)
	if err == nil && got != "unlimited\n" {
		t.Errorf("limit %q", got)
	}
	if err != nil && (!strings.Contains(err.Error(), "memlock") || !strings.Contains(err.Error(), "CAP_SYS_RESOURCE")) {
		t.Errorf("error %v", err)
	}
}

// cgroupFile prints a file of the process' own cgroup: by its name in cgroup v2 or, on
// v1, in the controller's hierarchy.
func cgroupFile(v2, controller, v1 string) string {
	return fmt.Sprintf("cat /sys/fs/cgroup/%s 2>/dev/null || cat /sys/fs/cgroup/%s/%s\n", v2, controller, v1)
}

func testLimits(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, cgroupFile("memory.max", "memory", "memory.limit_in_bytes")+
		cgroupFile("cpu.max", "cpu", "cpu.cfs_quota_us")+
		cgroupFile("cpuset.cpus", "cpuset", "cpuset.cpus")+
		cgroupFile("pids.max", "pids", "pids.max"))
	s.Resources = sandbox.Resources{Memory: 64 << 20, CPUPeriod: 100000, CPUQuota: 50000, CPUShares: 512, CpusetCPUs: "0", Pids: 77}
	got := strings.Split(mustOutput(t, r, s), "\n")
	if len(got) != 4 || got[0] != "67108864" || !strings.HasPrefix(got[1], "50000") || got[2] != "0" || got[3] != "77" {
		t.Errorf("limits %q", got)
	}
	if !unified() {
		return
	}
	s = newSpec(t, "cd /sys/fs/cgroup; for f in memory.max memory.swap.max cpu.max cpu.weight cpuset.cpus cpuset.mems pids.max io.weight; do echo $f $(cat $f); done; cat /proc/self/cgroup; mkdir x 2>&1")
	s.Resources = sandbox.Resources{
		Memory: 64 << 20, MemorySwap: 96 << 20, CPUPeriod: 50000, CPUQuota: 25000, CPUShares: 2048, CpusetCPUs: "0", CpusetMems: "0",
		Pids: 77, IOWeight: 500,
	}
	out, err := output(t, r, s)
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) { // of mkdir
		t.Errorf("error %v", err)
	}
	for _, want := range []string{
		"memory.max 67108864\n", "memory.swap.max 33554432\n", "cpu.max 25000 50000\n", "cpuset.cpus 0\n", "cpuset.mems 0\n", "pids.max 77\n",
		"io.weight default 4950\n", "\n0::/\n", "Read-only file system",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "cpu.weight 100\n") {
		t.Errorf("the weight of the processor is the usual one:\n%s", out)
	}
}

func testMemoryLimit(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, "tail /dev/zero")
	s.Resources = sandbox.Resources{Memory: 16 << 20, MemorySwap: 16 << 20}
	_, err := output(t, r, s)
	if err == nil || !strings.Contains(err.Error(), sandbox.ErrOutOfMemory.Error()) {
		t.Errorf("error %v", err)
	}
}

// testIOLimit limits writes to the disk that the root is on, if it is on one.
func testIOLimit(t *testing.T, r sandbox.Runner) {
	s := newSpec(t, cgroupFile("io.max", "blkio", "blkio.throttle.write_bps_device"))
	var st unix.Stat_t
	if err := unix.Stat(s.Root, &st); err != nil {
		t.Fatal(err)
	}
	major, minor := unix.Major(st.Dev), unix.Minor(st.Dev)
	if major == 0 {
		major, minor = 1, 0 // no disk's file system; take a RAM disk's number
	}
	s.Resources.IO = []sandbox.IOLimit{{Major: int64(major), Minor: int64(minor), WriteBytes: 77 << 20}}
	got, err := output(t, r, s)
	if _, there := os.Stat(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor)); there != nil && err != nil {
		return // the kernel knows no such disk, and the runtime says so
	}
	if err != nil || !strings.Contains(got, fmt.Sprintf("%d:%d", major, minor)) || !strings.Contains(got, "80740352") {
		t.Errorf("error %v, limits %q", err, got)
	}
}

// testUsage uses processor time and memory, and writes to the disk.
func testUsage(t *testing.T, r sandbox.Runner) {
	var last usage.Sample
	s := newSpec(t, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/f bs=1M count=8 conv=fsync 2>/dev/null")
	s.Observe = func(u usage.Sample) { last = u }
	mustOutput(t, r, s)
	if last.CPU == nil || last.CPU.UsageNanos == nil || *last.CPU.UsageNanos < 1e6 {
		t.Errorf("processor time: %+v", last.CPU)
	}
	if last.Memory == nil || last.Memory.Peak == nil || *last.Memory.Peak < 1<<20 {
		t.Errorf("memory: %+v", last.Memory)
	}
	if last.PIDs == nil || last.PIDs.Current == nil || *last.PIDs.Current != 0 {
		t.Errorf("processes: %+v", last.PIDs)
	}
	if last.IO == nil || last.IO.WriteBytes == nil {
		t.Errorf("I/O: %+v", last.IO)
	}
	if unified() && exists("/proc/pressure") && (last.CPU.Pressure == nil || last.Memory.Pressure == nil || last.IO == nil || last.IO.Pressure == nil) {
		t.Errorf("no pressure: processor %+v, memory %+v, I/O %+v", last.CPU, last.Memory, last.IO)
	}
}

// testCgroupParents looks where processes are whose cgroup parent is a path, or one of
// systemd's, and what is left there.
func testCgroupParents(t *testing.T, r sandbox.Runner) {
	name := fmt.Sprintf("kilntest%d", os.Getpid())
	for parent, where := range map[string]string{name + "/a": name + "/a/kiln/%s", name + "-a.slice:step:": name + ".slice/" + name + "-a.slice/step-%s.scope"} {
		s := newSpec(t, cgroupFile("pids.max", "pids", "pids.max")+"read line")
		s.CgroupParent, s.Resources.Pids = parent, 50
		var used usage.Sample
		s.Observe = func(u usage.Sample) { used = u }
		var dir string
		for _, hierarchy := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/pids/"} {
			if _, err := os.Stat(hierarchy + "cgroup.procs"); err == nil {
				dir = hierarchy + fmt.Sprintf(where, s.ID)
			}
		}
		in, end := io.Pipe()
		var out, procs lockedBuffer
		err := r.Run(t.Context(), s, sandbox.IO{Stdin: in, Stdout: &out}, func() {
			go func() {
				defer end.Close()
				// Some have a cgroup inside their cgroup.
				files, err := filepath.Glob(dir + "/*/cgroup.procs")
				for _, file := range append(files, dir+"/cgroup.procs") {
					text, e := os.ReadFile(file)
					fmt.Fprint(&procs, string(text))
					err = errors.Join(err, e)
				}
				fmt.Fprint(&procs, err)
			}()
		})
		if err != nil && !isExit(err) || !strings.HasSuffix(procs.String(), "\n<nil>") || out.String() != "50\n" {
			t.Errorf("parent %s: error %v, processes in %s: %q, limit %q", parent, err, dir, procs.String(), out.String())
		}
		if used.PIDs == nil && !strings.Contains(parent, ":") {
			t.Errorf("parent %s: used %+v", parent, used)
		}
		for left := dir; strings.Contains(left, name); left = filepath.Dir(left) {
			if err := os.Remove(left); left == dir && err == nil {
				t.Errorf("%s is left", left)
			}
		}
	}
}

// isExit tells whether a process has ended by itself.
func isExit(err error) bool {
	var exit *sandbox.ExitError
	return errors.As(err, &exit)
}
