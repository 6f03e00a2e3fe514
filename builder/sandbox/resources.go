package sandbox

import (
	"errors"
	"fmt"
	"regexp"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Resources limit the process and its children; zero values mean no limit.
type Resources struct {
	// Memory and MemorySwap (memory and swap together) are in bytes; a
	// MemorySwap of -1 is unlimited.
	Memory, MemorySwap int64
	// CPUShares is a weight relative to 1024.
	CPUShares int64
	// CPUPeriod and CPUQuota are in microseconds. A CPUQuota of -1 is unlimited.
	CPUPeriod, CPUQuota int64
	// CpusetCPUs and CpusetMems are lists such as "0-2,7".
	CpusetCPUs, CpusetMems string
	// Pids is how many processes and threads there may be.
	Pids int64
	// IOWeight is a weight from 10 to 1000, where 100 is usual. With cgroup v2, where
	// the scheduler of a disk isn't BFQ, runtimes make a number from 1 to 10000 of it,
	// 910 of 100.
	IOWeight int64
	// IO limits what is done with single disks.
	IO []IOLimit
}

// IOLimit bounds reads and writes of a disk per second; zero values mean no limit.
type IOLimit struct {
	Major, Minor          int64
	ReadBytes, WriteBytes uint64
	ReadOps, WriteOps     uint64
}

// defaultPeriod is the kernel's CPUPeriod.
const defaultPeriod = 100_000

var cpuList = regexp.MustCompile(`^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$`)

// Check says what is out of the range that the kernel takes.
func (r Resources) Check() error {
	var errs []error
	within := func(name string, v, low, high int64, also ...int64) {
		for _, ok := range append(also, 0) {
			if v == ok {
				return
			}
		}
		if v < low || high > 0 && v > high {
			errs = append(errs, fmt.Errorf("%s of %d is out of range: at least %d%s", name, v, low, atMost(high)))
		}
	}
	within("memory limit", r.Memory, 1, 0)
	within("limit of memory and swap", r.MemorySwap, 1, 0, -1)
	within("CPU shares", r.CPUShares, 2, 262144)
	within("CPU period", r.CPUPeriod, 1000, 1_000_000)
	within("CPU quota", r.CPUQuota, 1000, 0, -1)
	within("limit of processes", r.Pids, 1, 0)
	within("I/O weight", r.IOWeight, 10, 1000)
	if r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory {
		errs = append(errs, fmt.Errorf("limit of memory and swap, %d, is below that of memory, %d", r.MemorySwap, r.Memory))
	}
	for _, list := range []string{r.CpusetCPUs, r.CpusetMems} {
		if list != "" && !cpuList.MatchString(list) {
			errs = append(errs, fmt.Errorf("cpuset %.80q is not a list such as 0-2,7", list))
		}
	}
	return errors.Join(errs...)
}

func atMost(high int64) string {
	if high == 0 {
		return ""
	}
	return fmt.Sprintf(" and at most %d", high)
}

// Under gives what a process gets that asked for something where r holds for all:
// of each limit the lower one, and its own weights and sets if it has them.
func (r Resources) Under(asked Resources) Resources {
	out := r
	out.Memory = lower(r.Memory, asked.Memory)
	out.MemorySwap = lower(r.MemorySwap, asked.MemorySwap)
	if out.MemorySwap > 0 && out.MemorySwap < out.Memory {
		out.Memory = out.MemorySwap
	}
	out.Pids = lower(r.Pids, asked.Pids)
	if r.cpus() == 0 || asked.cpus() > 0 && asked.cpus() < r.cpus() {
		out.CPUPeriod, out.CPUQuota = asked.CPUPeriod, asked.CPUQuota
	}
	if asked.CPUShares != 0 {
		out.CPUShares = asked.CPUShares
	}
	if asked.CpusetCPUs != "" {
		out.CpusetCPUs = asked.CpusetCPUs
	}
	if asked.CpusetMems != "" {
		out.CpusetMems = asked.CpusetMems
	}
	return out
}

// lower is the lower one of two limits, where 0 is none and -1 is unlimited. What
// can't be a limit is kept to be found.
func lower(a, b int64) int64 {
	switch {
	case a == 0 || a == -1:
		return b
	case b == 0 || b == -1:
		return a
	}
	return min(a, b)
}

// cpus is how many processors' time the quota is, 0 if there is none.
func (r Resources) cpus() float64 {
	if r.CPUQuota <= 0 {
		return 0
	}
	period := r.CPUPeriod
	if period <= 0 {
		period = defaultPeriod
	}
	return float64(r.CPUQuota) / float64(period)
}

// oci writes r, which was checked, down for an OCI runtime.
func (r Resources) oci() *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r.Memory != 0 || r.MemorySwap != 0 {
		out.Memory = &specs.LinuxMemory{Limit: nonzero(r.Memory), Swap: nonzero(r.MemorySwap)}
	}
	if r.CPUShares != 0 || r.CPUPeriod != 0 || r.CPUQuota != 0 || r.CpusetCPUs != "" || r.CpusetMems != "" {
		out.CPU = &specs.LinuxCPU{
			Shares: nonzero(uint64(r.CPUShares)), Period: nonzero(uint64(r.CPUPeriod)), Quota: nonzero(r.CPUQuota),
			Cpus: r.CpusetCPUs, Mems: r.CpusetMems,
		}
	}
	if r.Pids != 0 {
		out.Pids = &specs.LinuxPids{Limit: &r.Pids}
	}
	if r.IOWeight != 0 || len(r.IO) > 0 {
		out.BlockIO = &specs.LinuxBlockIO{Weight: nonzero(uint16(r.IOWeight))}
	}
	for _, l := range r.IO {
		add := func(to *[]specs.LinuxThrottleDevice, rate uint64) {
			if rate != 0 {
				d := specs.LinuxThrottleDevice{Rate: rate}
				d.Major, d.Minor = l.Major, l.Minor
				*to = append(*to, d)
			}
		}
		add(&out.BlockIO.ThrottleReadBpsDevice, l.ReadBytes)
		add(&out.BlockIO.ThrottleWriteBpsDevice, l.WriteBytes)
		add(&out.BlockIO.ThrottleReadIOPSDevice, l.ReadOps)
		add(&out.BlockIO.ThrottleWriteIOPSDevice, l.WriteOps)
	}
	return out
}

func nonzero[T int64 | uint64 | uint16](v T) *T {
	if v == 0 {
		return nil
	}
	return &v
}
