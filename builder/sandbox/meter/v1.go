package meter

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kiln-build/kiln/builder/event/usage"
)

// clockTick is the unit of cpuacct.stat in nanoseconds: USER_HZ is 100 on every
// architecture that Go runs on.
const clockTick = 1e9 / 100

func cpuV1(cpu, cpuacct string) *usage.CPU {
	total := readNumber(cpuacct, "cpuacct.usage")
	if total == nil {
		return nil
	}
	t, quota := readTable(cpuacct, "cpuacct.stat"), readTable(cpu, "cpu.stat")
	return &usage.CPU{
		UsageNanos: total, UserNanos: t.times("user", clockTick), SystemNanos: t.times("system", clockTick),
		Periods: quota.get("nr_periods"), Throttled: quota.get("nr_throttled"), ThrottledNanos: quota.get("throttled_time"),
	}
}

func memoryV1(dir string) *usage.Memory {
	t := readTable(dir, "memory.stat")
	if t == nil {
		return nil
	}
	oom := readTable(dir, "memory.oom_control")
	m := &usage.Memory{
		Swap: t.get("total_swap"), Peak: readNumber(dir, "memory.max_usage_in_bytes"),
		Anon: t.get("total_rss"), File: t.get("total_cache"), Kernel: readNumber(dir, "memory.kmem.usage_in_bytes"),
		Shmem: t.get("total_shmem"), FileMapped: t.get("total_mapped_file"),
		FileDirty: t.get("total_dirty"), FileWriteback: t.get("total_writeback"),
		Pgfault: t.get("total_pgfault"), Pgmajfault: t.get("total_pgmajfault"),
		OomKillEvents: oom["oom_kill"],
	}
	if n := readNumber(dir, "memory.failcnt"); n != nil {
		m.MaxEvents = *n
	}
	return m
}

// ioV1 adds up the devices, with lines "MAJOR:MINOR Read N".
func ioV1(dir string) *usage.IO {
	bytes, ops := readDevices(dir, "blkio.throttle.io_service_bytes_recursive"), readDevices(dir, "blkio.throttle.io_serviced_recursive")
	if bytes == nil {
		return nil
	}
	return &usage.IO{
		ReadBytes: bytes.get("Read"), WriteBytes: bytes.get("Write"), DiscardBytes: bytes.get("Discard"),
		ReadOps: ops.get("Read"), WriteOps: ops.get("Write"), DiscardOps: ops.get("Discard"),
	}
}

func readDevices(dir, name string) table {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil
	}
	t := table{"Read": 0, "Write": 0, "Discard": 0}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 {
			if n, err := strconv.ParseUint(f[2], 10, 64); err == nil {
				t[f[1]] += n
			}
		}
	}
	return t
}
