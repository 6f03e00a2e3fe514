package sandbox

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// run is a checked Spec with all that was looked up and made for it.
type run struct {
	Spec
	bundle string
	owner  owner
	// hostOwner is owner as the host sees it.
	hostOwner owner
	network   network
	// sysfs is where the host has one for a remapped process; "" is for it to make one.
	sysfs   string
	rlimits []specs.POSIXRlimit
	labels  labels
	spec    *specs.Spec
	engine  engine

	// What the native engine has of the first process.
	first  *os.File // its pidfd
	cgroup cgroups.Manager
}

func (r *run) close() error {
	if r.first == nil {
		return nil
	}
	return r.first.Close()
}

// specVersion is that of the specification in which all we ask for is. Older runtimes
// refuse newer ones.
const specVersion = "1.0.2"

// ociSpec writes r down for an OCI runtime.
func (l *Local) ociSpec(r *run) *specs.Spec {
	s := &specs.Spec{
		Version:  specVersion,
		Root:     &specs.Root{Path: r.Root, Readonly: r.ReadonlyRoot},
		Hostname: r.Hostname,
		Process: &specs.Process{
			Terminal:        r.Terminal,
			User:            ociUser(r.owner),
			Args:            r.Args,
			Env:             slices.Clip(r.Env),
			Cwd:             r.Cwd,
			Capabilities:    l.base.capabilities(r.Security),
			Rlimits:         r.rlimits,
			ApparmorProfile: l.cfg.AppArmorProfile,
			SelinuxLabel:    r.labels.process,
		},
		Mounts: l.mounts(r),
		Linux: &specs.Linux{
			MountLabel:    r.labels.mount,
			MaskedPaths:   l.base.masked,
			ReadonlyPaths: l.base.readonly,
			CgroupsPath:   l.cgroupPath(r.Spec),
			Namespaces:    l.namespaces(r.network),
			Seccomp:       l.base.seccomp,
			Resources:     r.Resources.oci(),
		},
	}
	s.Linux.Resources.Devices = slices.Clip(l.base.devices)
	if r.Security == Insecure {
		unrestrict(s, l.cfg.Rootless || r.Users != nil)
	}
	if l.cfg.HostPID {
		shareProcesses(s)
	}
	switch {
	case r.UserNamespace != "":
		enterUserNamespace(s, r.UserNamespace)
	case r.Users != nil:
		r.remap(s)
	}
	if l.cfg.Rootless {
		unprivilege(s)
	}
	return s
}

func ociUser(o owner) specs.User {
	return specs.User{UID: o.uid, GID: o.gid, AdditionalGids: o.groups}
}

// capabilities are neither inheritable nor ambient for a sandboxed process: one that
// is not root has none.
func (b *baseline) capabilities(s Security) *specs.LinuxCapabilities {
	if s == Insecure {
		return &specs.LinuxCapabilities{
			Bounding: b.allCaps, Effective: b.allCaps, Permitted: b.allCaps,
			Inheritable: b.allCaps, Ambient: b.allCaps,
		}
	}
	return &specs.LinuxCapabilities{Bounding: b.caps, Effective: b.caps, Permitted: b.caps}
}

func (l *Local) namespaces(n network) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.MountNamespace},
	}
	if l.base.cgroupNS {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if !n.host {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: n.path})
	}
	return ns
}

// mounts are the usual ones, then the Spec's.
func (l *Local) mounts(r *run) []specs.Mount {
	mounts := slices.Clone(l.base.mounts)
	readonly := []string{"rbind", "ro", "nosuid", "noexec", "nodev"}
	mounts = append(mounts,
		specs.Mount{Destination: "/etc/resolv.conf", Type: "bind", Source: filepath.Join(r.bundle, "resolv.conf"), Options: readonly},
		specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: filepath.Join(r.bundle, "hosts"), Options: readonly},
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
	)
	for _, m := range r.Mounts {
		om := specs.Mount{Destination: m.Target, Type: m.Type, Source: m.Source, Options: m.Options}
		if m.Type == "bind" && !isBind(Mount{Options: m.Options}) {
			om.Options = append([]string{"rbind"}, m.Options...)
		}
		usual := func(u specs.Mount) bool { return u.Destination == m.Target }
		if i := slices.IndexFunc(mounts, usual); i >= 0 {
			mounts[i] = om
		} else {
			mounts = append(mounts, om)
		}
	}
	return mounts
}

// isBind tells whether a mount shows an existing file or directory of the host.
func isBind(m Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}
