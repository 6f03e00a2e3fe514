package plugin

import (
	"fmt"

	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/plugin/config"
	"golang.org/x/sys/unix"
)

// sandboxLimits are those of the configuration, with the numbers of its devices.
func sandboxLimits(l config.Limits) (sandbox.Resources, error) {
	r := sandbox.Resources{
		Memory: l.Memory.Bytes, MemorySwap: l.MemorySwap.Bytes,
		CPUShares: l.CPUShares, CPUPeriod: l.CPUPeriod, CPUQuota: l.CPUQuota,
		CpusetCPUs: l.CPUs, CpusetMems: l.Mems, Pids: l.Pids, IOWeight: l.IOWeight,
	}
	for _, io := range l.IO {
		var st unix.Stat_t
		if err := unix.Stat(io.Device, &st); err != nil {
			return r, fmt.Errorf("sandbox.limits.io.device: %s: %w", io.Device, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return r, fmt.Errorf("sandbox.limits.io.device: %s is not a block device", io.Device)
		}
		r.IO = append(r.IO, sandbox.IOLimit{
			Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
			ReadBytes: uint64(io.ReadBytes.Bytes), WriteBytes: uint64(io.WriteBytes.Bytes),
			ReadOps: io.ReadOps, WriteOps: io.WriteOps,
		})
	}
	if err := r.Check(); err != nil {
		return r, fmt.Errorf("sandbox.limits: %w", err)
	}
	return r, nil
}
