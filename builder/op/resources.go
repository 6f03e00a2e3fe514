package op

import (
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/moby/buildkit/solver/pb"
)

// resources are the limits that a step asks for.
func resources(r *pb.LinuxResources) sandbox.Resources {
	if r == nil {
		return sandbox.Resources{}
	}
	return sandbox.Resources{
		Memory: r.Memory, MemorySwap: r.MemorySwap,
		CPUShares: int64(r.CpuShares), CPUPeriod: int64(r.CpuPeriod), CPUQuota: r.CpuQuota,
		CpusetCPUs: r.CpusetCpus, CpusetMems: r.CpusetMems,
	}
}
