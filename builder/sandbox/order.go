package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-build/kiln/builder/sandbox/filter"
	"github.com/kiln-build/kiln/builder/sandbox/inside"
	"github.com/moby/sys/capability"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// errUnsupported says that a process needs something that only an OCI runtime can
// give it.
var errUnsupported = errors.New("only an OCI runtime does that")

// supported tells whether [inside.Order] can say all that s does.
func supported(s *specs.Spec) error {
	l, p := s.Linux, s.Process
	for what, asked := range map[string]bool{
		"hooks":                   s.Hooks != nil,
		"a user namespace":        len(l.UIDMappings) > 0 || len(l.GIDMappings) > 0,
		"SELinux":                 p.SelinuxLabel != "" || l.MountLabel != "",
		"sysctl":                  len(l.Sysctl) > 0,
		"propagation of the root": l.RootfsPropagation != "",
		"network devices":         len(l.NetDevices) > 0,
		"resctrl":                 l.IntelRdt != nil,
		"a personality":           l.Personality != nil,
		"a memory policy":         l.MemoryPolicy != nil,
		"a time namespace":        len(l.TimeOffsets) > 0,
		"a scheduler":             p.Scheduler != nil || p.IOPriority != nil || p.ExecCPUAffinity != nil,
		"a domain name":           s.Domainname != "",
		"a umask":                 p.User.Umask != nil,
		"a cgroup of systemd's":   !filepath.IsAbs(l.CgroupsPath),
	} {
		if asked {
			return fmt.Errorf("%s: %w", what, errUnsupported)
		}
	}
	has := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range l.Namespaces {
		if cloneFlags[ns.Type] == 0 || ns.Path != "" && ns.Type != specs.NetworkNamespace {
			return fmt.Errorf("%s namespace: %w", ns.Type, errUnsupported)
		}
		has[ns.Type] = true
	}
	if !has[specs.MountNamespace] || !has[specs.PIDNamespace] {
		return fmt.Errorf("the processes of the host: %w", errUnsupported)
	}
	for _, m := range s.Mounts {
		if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
			return fmt.Errorf("ids of mount %s: %w", m.Destination, errUnsupported)
		}
	}
	return nil
}

// cloneFlags make namespaces. That of cgroups is made later, when the process has
// its cgroup.
var cloneFlags = map[specs.LinuxNamespaceType]uintptr{
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
}

// newFlags are those of the namespaces that s wants new.
func newFlags(s *specs.Spec) uintptr {
	var flags uintptr
	for _, ns := range s.Linux.Namespaces {
		if ns.Path == "" && ns.Type != specs.CgroupNamespace {
			flags |= cloneFlags[ns.Type]
		}
	}
	return flags
}

// translate has runc's library read s, so that it means here what it means there.
func translate(id string, s *specs.Spec) (*configs.Config, error) {
	plain, linux := *s, *s.Linux
	linux.Seccomp = nil // that is ours
	plain.Linux = &linux
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: &plain})
	if err != nil {
		return nil, err
	}
	for _, m := range config.Mounts {
		if m.RecAttr != nil || m.Extensions != 0 || m.Flags&(unix.MS_REMOUNT|unix.MS_MOVE) != 0 {
			return nil, fmt.Errorf("options of mount %s: %w", m.Destination, errUnsupported)
		}
	}
	return config, nil
}

// sandboxOrder says what to make around the first process of r. cgroups are the
// directories of its cgroup by controller.
func sandboxOrder(r *run, config *configs.Config, cgroups map[string]string) *inside.Sandbox {
	s := &inside.Sandbox{
		ID: r.ID, Hostname: config.Hostname, Root: config.Rootfs, RootReadonly: config.Readonlyfs,
		Masked: config.MaskPaths, Readonly: config.ReadonlyPaths,
	}
	for _, ns := range r.spec.Linux.Namespaces {
		switch ns.Type {
		case specs.NetworkNamespace:
			s.Network, s.Loopback = ns.Path, ns.Path == ""
		case specs.CgroupNamespace:
			s.CgroupNamespace = true
		}
	}
	dev := true
	for _, m := range config.Mounts {
		if m.Device == "cgroup" {
			addCgroups(s, m, cgroups)
			continue
		}
		if m.Destination == "/dev" && m.IsBind() {
			dev = false
		}
		s.Mounts = append(s.Mounts, orderMount(m))
	}
	if dev {
		addDevices(s, config)
	}
	return s
}

func addDevices(s *inside.Sandbox, config *configs.Config) {
	kinds := map[rune]uint32{'c': unix.S_IFCHR, 'u': unix.S_IFCHR, 'b': unix.S_IFBLK, 'p': unix.S_IFIFO}
	for _, d := range config.Devices {
		s.Devices = append(s.Devices, inside.Device{
			Path: d.Path, Mode: uint32(d.FileMode.Perm()) | kinds[rune(d.Type)],
			Dev: unix.Mkdev(uint32(d.Major), uint32(d.Minor)), UID: int(d.Uid), GID: int(d.Gid),
		})
	}
	s.Links = append(s.Links,
		[2]string{"/dev/ptmx", "pts/ptmx"}, [2]string{"/dev/fd", "/proc/self/fd"}, [2]string{"/dev/stdin", "/proc/self/fd/0"},
		[2]string{"/dev/stdout", "/proc/self/fd/1"}, [2]string{"/dev/stderr", "/proc/self/fd/2"})
	if _, err := os.Stat("/proc/kcore"); err == nil {
		s.Links = append(s.Links, [2]string{"/dev/core", "/proc/kcore"})
	}
}

// addCgroups shows a process its cgroup: in a namespace of its own, or the
// directories of the first version's hierarchies.
func addCgroups(s *inside.Sandbox, m *configs.Mount, cgroups map[string]string) {
	attrs := mountAttrs(m.Flags)
	if s.CgroupNamespace {
		s.Mounts = append(s.Mounts, inside.Mount{Target: m.Destination, Type: "cgroup2", Source: "cgroup", Set: attrs})
		return
	}
	s.Mounts = append(s.Mounts, inside.Mount{
		Target: m.Destination, Type: "tmpfs", Source: "tmpfs", Data: []string{"mode=755"}, Set: attrs &^ unix.MOUNT_ATTR_RDONLY,
	})
	var seen []string
	for controller, dir := range cgroups {
		if controller == "" {
			continue // the second version's, of which the first shows nothing
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(dir, cgroupRoot+"/"), "/")
		if slices.Contains(seen, name) {
			continue
		}
		seen = append(seen, name)
		s.Mounts = append(s.Mounts, inside.Mount{Target: filepath.Join(m.Destination, name), Type: "bind", Source: dir, Recursive: true, Set: attrs})
		if strings.Contains(name, ",") {
			for alias := range strings.SplitSeq(name, ",") {
				s.Links = append(s.Links, [2]string{filepath.Join(m.Destination, alias), name})
			}
		}
	}
}

func orderMount(m *configs.Mount) inside.Mount {
	out := inside.Mount{
		Target: m.Destination, Type: m.Device, Source: m.Source,
		Set: mountAttrs(m.Flags), Clear: mountAttrs(m.ClearedFlags) &^ unix.MOUNT_ATTR__ATIME,
	}
	if m.IsBind() {
		out.Type, out.Recursive = "bind", m.Flags&unix.MS_REC != 0
	} else if m.Data != "" {
		out.Data = strings.Split(m.Data, ",")
	}
	for _, p := range m.PropagationFlags {
		out.Propagation = uint64(p)
	}
	return out
}

// mountAttrs are the attributes of mount_setattr(2) for flags of mount(2).
func mountAttrs(flags int) uint64 {
	var attrs uint64
	for flag, attr := range map[int]uint64{
		unix.MS_RDONLY: unix.MOUNT_ATTR_RDONLY, unix.MS_NOSUID: unix.MOUNT_ATTR_NOSUID, unix.MS_NODEV: unix.MOUNT_ATTR_NODEV,
		unix.MS_NOEXEC: unix.MOUNT_ATTR_NOEXEC, unix.MS_NOATIME: unix.MOUNT_ATTR_NOATIME,
		unix.MS_STRICTATIME: unix.MOUNT_ATTR_STRICTATIME, unix.MS_NODIRATIME: unix.MOUNT_ATTR_NODIRATIME,
		unix.MS_NOSYMFOLLOW: unix.MOUNT_ATTR_NOSYMFOLLOW,
	} {
		if flags&flag != 0 {
			attrs |= attr
		}
	}
	return attrs
}

// processOrder says what p is to become.
func (n *native) processOrder(p *specs.Process, seccomp *specs.LinuxSeccomp) (inside.Process, error) {
	out := inside.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, UID: int(p.User.UID), GID: int(p.User.GID),
		NoNewPrivileges: p.NoNewPrivileges, AppArmor: p.ApparmorProfile, Terminal: p.Terminal, OOMScore: p.OOMScoreAdj,
	}
	for _, g := range p.User.AdditionalGids {
		out.Groups = append(out.Groups, int(g))
	}
	for _, l := range p.Rlimits {
		resource, ok := rlimits[strings.TrimPrefix(l.Type, "RLIMIT_")]
		if !ok {
			return out, fmt.Errorf("unknown limit %s", l.Type)
		}
		out.Rlimits = append(out.Rlimits, inside.Rlimit{Resource: resource, Soft: l.Soft, Hard: l.Hard})
	}
	out.Caps.Last = n.lastCap
	if c := p.Capabilities; c != nil {
		out.Caps = inside.Caps{
			Bounding: capBits(c.Bounding), Effective: capBits(c.Effective), Permitted: capBits(c.Permitted),
			Inheritable: capBits(c.Inheritable), Ambient: capBits(c.Ambient), Last: n.lastCap,
		}
	}
	out.Seccomp = n.filter
	var err error
	if seccomp != n.profile {
		out.Seccomp, err = compiled(seccomp)
	}
	return out, err
}

var capNumbers = func() map[string]int {
	m := map[string]int{}
	for _, c := range capability.ListKnown() {
		m["CAP_"+strings.ToUpper(c.String())] = int(c)
	}
	return m
}()

// capBits has a bit for each capability. Unknown ones nobody has.
func capBits(names []string) uint64 {
	var bits uint64
	for _, name := range names {
		if n, ok := capNumbers[name]; ok {
			bits |= 1 << n
		}
	}
	return bits
}

// compiled is the program of a profile.
func compiled(p *specs.LinuxSeccomp) ([]inside.Instruction, error) {
	if p == nil {
		return nil, nil
	}
	raw, err := filter.Compile(p)
	if err != nil {
		return nil, err
	}
	out := make([]inside.Instruction, len(raw))
	for i, r := range raw {
		out[i] = inside.Instruction{uint32(r.Op), uint32(r.Jt), uint32(r.Jf), r.K}
	}
	return out, nil
}
