package sandbox

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// insecureDevices are the devices of the host that an Insecure process also has,
// beside the loop devices.
var insecureDevices = []specs.LinuxDevice{
	{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11},
	{Path: "/dev/cuse", Type: "c", Major: 10, Minor: 203},
	{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229},
	{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232},
	{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
	{Path: "/dev/loop-control", Type: "c", Major: 10, Minor: 237},
}

// unrestrict takes from s what keeps a process from the host, except namespaces.
// Device nodes can't be made in a user namespace.
func unrestrict(s *specs.Spec, userns bool) {
	s.Process.ApparmorProfile = ""
	s.Linux.Seccomp = nil
	s.Linux.MaskedPaths = nil
	s.Linux.ReadonlyPaths = nil
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
		{Allow: true, Type: "c", Access: "rwm"},
		{Allow: true, Type: "b", Access: "rwm"},
	}
	if !userns {
		s.Linux.Devices = slices.Concat(insecureDevices, loopDevices())
	}
	for i, m := range s.Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" {
			s.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
}

// shareProcesses gives s the host's processes: for a daemon in a container that may
// not mount a /proc of its own.
func shareProcesses(s *specs.Spec) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.PIDNamespace
	})
	inProc := func(p string) bool { return below(p, "/proc") }
	s.Linux.MaskedPaths = slices.DeleteFunc(slices.Clone(s.Linux.MaskedPaths), inProc)
	s.Linux.ReadonlyPaths = slices.DeleteFunc(slices.Clone(s.Linux.ReadonlyPaths), inProc)
	for i, m := range s.Mounts {
		if m.Type == "proc" {
			s.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: "/proc", Options: []string{"rbind"}}
		}
	}
}

// enterUserNamespace runs s in a user namespace. There sysfs can't be mounted, for the
// network is not that namespace's: the host's is shown, without the host's cgroups.
func enterUserNamespace(s *specs.Spec, file string) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: file})
	s.Linux.MaskedPaths = append(slices.Clip(s.Linux.MaskedPaths), "/sys/fs/cgroup")
	s.Linux.Devices = nil
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	for i, m := range s.Mounts {
		if m.Type == "sysfs" {
			s.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "rro"}}
		}
	}
}

// unprivilege takes from s what a user namespace without a network namespace and
// without delegated cgroups of its own does not allow: sysfs and cgroups. The flags
// that the kernel locked on a bind mount's source are repeated, as it demands.
func unprivilege(s *specs.Spec) {
	s.Linux.Resources = nil
	s.Linux.CgroupsPath = ""
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
		return m.Type == "sysfs" || m.Type == "cgroup"
	})
	for i, m := range s.Mounts {
		if !isBind(Mount{Type: m.Type, Options: m.Options}) {
			continue
		}
		for _, flag := range lockedFlags(m.Source) {
			if !slices.Contains(m.Options, flag) {
				s.Mounts[i].Options = append(slices.Clip(s.Mounts[i].Options), flag)
			}
		}
	}
}
