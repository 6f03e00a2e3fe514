package sandbox

import (
	"fmt"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// usualDevices are what runtimes let every process use, whatever the specification
// says. Those with a path are made.
var usualDevices = []struct {
	path         string
	kind         devices.Type
	major, minor int64
	access       devices.Permissions
}{
	{kind: devices.CharDevice, major: devices.Wildcard, minor: devices.Wildcard, access: "m"},
	{kind: devices.BlockDevice, major: devices.Wildcard, minor: devices.Wildcard, access: "m"},
	{path: "/dev/null", kind: devices.CharDevice, major: 1, minor: 3, access: "rwm"},
	{path: "/dev/random", kind: devices.CharDevice, major: 1, minor: 8, access: "rwm"},
	{path: "/dev/full", kind: devices.CharDevice, major: 1, minor: 7, access: "rwm"},
	{path: "/dev/tty", kind: devices.CharDevice, major: 5, minor: 0, access: "rwm"},
	{path: "/dev/zero", kind: devices.CharDevice, major: 1, minor: 5, access: "rwm"},
	{path: "/dev/urandom", kind: devices.CharDevice, major: 1, minor: 9, access: "rwm"},
	{kind: devices.CharDevice, major: 136, minor: devices.Wildcard, access: "rwm"}, // /dev/pts
	{kind: devices.CharDevice, major: 5, minor: 2, access: "rwm"},                  // /dev/ptmx
	{kind: devices.CharDevice, major: 10, minor: 200, access: "rwm"},               // /dev/net/tun
}

// cgroupOf is the cgroup that a specification asks for.
func cgroupOf(l *specs.Linux) (*cgroups.Cgroup, error) {
	c := &cgroups.Cgroup{Path: l.CgroupsPath}
	if sc, ok := parseScope(l.CgroupsPath); ok {
		c = sc.cgroup()
	}
	c.Resources = &cgroups.Resources{}
	if l.Resources != nil {
		if err := setResources(c.Resources, l.Resources); err != nil {
			return nil, err
		}
	}
	for _, d := range usualDevices {
		c.Resources.Devices = append(c.Resources.Devices, &devices.Rule{
			Type: d.kind, Major: d.major, Minor: d.minor, Permissions: d.access, Allow: true,
		})
	}
	return c, nil
}

func setResources(to *cgroups.Resources, r *specs.LinuxResources) error {
	if len(r.HugepageLimits) > 0 || r.Network != nil || len(r.Rdma) > 0 {
		return fmt.Errorf("limits of huge pages, networks or RDMA: %w", errUnsupported)
	}
	for _, d := range r.Devices {
		rule := &devices.Rule{Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard, Permissions: devices.Permissions(d.Access), Allow: d.Allow}
		if d.Type != "" {
			rule.Type = devices.Type(d.Type[0])
		}
		if d.Major != nil {
			rule.Major = *d.Major
		}
		if d.Minor != nil {
			rule.Minor = *d.Minor
		}
		to.Devices = append(to.Devices, rule)
	}
	if m := r.Memory; m != nil {
		to.Memory, to.MemoryReservation, to.MemorySwap = value(m.Limit), value(m.Reservation), value(m.Swap)
		to.MemorySwappiness, to.OomKillDisable = m.Swappiness, value(m.DisableOOMKiller)
	}
	if c := r.CPU; c != nil {
		to.CpuShares, to.CpuQuota, to.CpuBurst, to.CpuPeriod = value(c.Shares), value(c.Quota), c.Burst, value(c.Period)
		to.CpuRtRuntime, to.CpuRtPeriod = value(c.RealtimeRuntime), value(c.RealtimePeriod)
		to.CpusetCpus, to.CpusetMems, to.CPUIdle = c.Cpus, c.Mems, c.Idle
		to.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(to.CpuShares)
	}
	if r.Pids != nil {
		to.PidsLimit = r.Pids.Limit
	}
	to.Unified = r.Unified
	setBlockIO(to, r.BlockIO)
	return nil
}

func setBlockIO(to *cgroups.Resources, b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	to.BlkioWeight, to.BlkioLeafWeight = value(b.Weight), value(b.LeafWeight)
	for _, d := range b.WeightDevice {
		to.BlkioWeightDevice = append(to.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, value(d.Weight), value(d.LeafWeight)))
	}
	throttles := func(all []specs.LinuxThrottleDevice) (out []*cgroups.ThrottleDevice) {
		for _, d := range all {
			out = append(out, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
		}
		return out
	}
	to.BlkioThrottleReadBpsDevice, to.BlkioThrottleWriteBpsDevice = throttles(b.ThrottleReadBpsDevice), throttles(b.ThrottleWriteBpsDevice)
	to.BlkioThrottleReadIOPSDevice, to.BlkioThrottleWriteIOPSDevice = throttles(b.ThrottleReadIOPSDevice), throttles(b.ThrottleWriteIOPSDevice)
}

// value is what p points to, or nothing.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
