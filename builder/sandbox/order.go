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
		if _, err := orderMount(m); err != nil {
			return err
		}
	}
	_, err := cgroupOf(l)
	return err
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
	specs.UserNamespace:    unix.CLONE_NEWUSER,
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

// sandboxOrder says what to make around the first process of r. cgroups are the
// directories of its cgroup by controller.
func sandboxOrder(r *run, cgroups map[string]string) (*inside.Sandbox, error) {
	l := r.spec.Linux
	s := &inside.Sandbox{
		ID: r.ID, Hostname: r.spec.Hostname, Root: r.spec.Root.Path, RootReadonly: r.spec.Root.Readonly,
		Masked: l.MaskedPaths, Readonly: l.ReadonlyPaths,
	}
	for _, ns := range l.Namespaces {
		switch ns.Type {
		case specs.NetworkNamespace:
			s.Network, s.Loopback = ns.Path, ns.Path == ""
		case specs.UserNamespace:
			s.Remapped = true
		case specs.CgroupNamespace:
			s.CgroupNamespace = true
		}
	}
	dev := true
	for _, m := range r.spec.Mounts {
		om, err := orderMount(m)
		if err != nil {
			return nil, err
		}
		if om.Target == "/dev" && om.Type == "bind" {
			dev = false
		}
		if om.Type == "cgroup" {
			addCgroups(s, om, cgroups)
		} else {
			s.Mounts = append(s.Mounts, om)
		}
	}
	if dev {
		addDevices(s, l.Devices)
	}
	if s.Remapped {
		s.Network = "" // it is started there
		return s, showDevices(s)
	}
	return s, nil
}

// addDevices adds the usual devices, then those of the specification.
func addDevices(s *inside.Sandbox, devices []specs.LinuxDevice) {
	for _, d := range usualDevices {
		if d.path == "" || slices.ContainsFunc(devices, func(o specs.LinuxDevice) bool { return filepath.Clean(o.Path) == d.path }) {
			continue
		}
		s.Devices = append(s.Devices, inside.Device{Path: d.path, Mode: unix.S_IFCHR | 0o666, Dev: unix.Mkdev(uint32(d.major), uint32(d.minor))})
	}
	kinds := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	for _, d := range devices {
		node := inside.Device{Path: d.Path, Mode: kinds[d.Type] | 0o666, Dev: unix.Mkdev(uint32(d.Major), uint32(d.Minor))}
		if d.FileMode != nil {
			node.Mode = kinds[d.Type] | uint32(d.FileMode.Perm())
		}
		if d.UID != nil {
			node.UID = int(*d.UID)
		}
		if d.GID != nil {
			node.GID = int(*d.GID)
		}
		s.Devices = append(s.Devices, node)
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
func addCgroups(s *inside.Sandbox, m inside.Mount, cgroups map[string]string) {
	if s.CgroupNamespace {
		s.Mounts = append(s.Mounts, inside.Mount{Target: m.Target, Type: "cgroup2", Source: "cgroup", Set: m.Set})
		return
	}
	s.Mounts = append(s.Mounts, inside.Mount{
		Target: m.Target, Type: "tmpfs", Source: "tmpfs", Data: []string{"mode=755"}, Set: m.Set &^ unix.MOUNT_ATTR_RDONLY,
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
		s.Mounts = append(s.Mounts, inside.Mount{Target: filepath.Join(m.Target, name), Type: "bind", Source: dir, Recursive: true, Set: m.Set})
		if strings.Contains(name, ",") {
			for alias := range strings.SplitSeq(name, ",") {
				s.Links = append(s.Links, [2]string{filepath.Join(m.Target, alias), name})
			}
		}
	}
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
