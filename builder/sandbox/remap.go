package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/sandbox/inside"
	"github.com/kiln-build/kiln/builder/sandbox/netns"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// remap runs s in a new user namespace.
func (r *run) remap(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = ociIDs(r.Users.UIDs()), ociIDs(r.Users.GIDs())
	if r.sysfs == "" {
		return
	}
	for i, m := range s.Mounts {
		if m.Type == "sysfs" {
			s.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: r.sysfs, Options: append(slices.Clip(m.Options), "rbind")}
		}
	}
}

func ociIDs(ids []syscall.SysProcIDMap) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, r := range ids {
		out = append(out, specs.LinuxIDMapping{ContainerID: uint32(r.ContainerID), HostID: uint32(r.HostID), Size: uint32(r.Size)})
	}
	return out
}

// streamsOwner is who the standard streams of a remapped process are given to, nil for
// others: in its namespace nobody may do that.
func (r *run) streamsOwner(u specs.User) *owner {
	if r.Users == nil {
		return nil
	}
	host, err := owner{uid: u.UID, gid: u.GID}.onHost(r.Users)
	if err != nil {
		return nil // it can't become that user either, and says so
	}
	return &host
}

// sysfsIn is where a bundle has the sysfs of its run's network.
func sysfsIn(bundle string) string { return filepath.Join(bundle, "sys") }

// openNetwork does what the root of a user namespace may not do with a network that is
// not that namespace's own: it mounts its sysfs (the host's has other things mounted in
// it), and allows what is allowed in one of its own.
func (r *run) openNetwork(undo *undoer) error {
	if r.Users == nil || r.network.new() {
		return nil
	}
	dir := sysfsIn(r.bundle)
	if err := os.Mkdir(dir, 0o555); err != nil {
		return err
	}
	prepare := func() error {
		return unix.Mount("sysfs", dir, "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	var err error
	if r.network.host {
		err = prepare()
	} else {
		err = netns.Do(r.network.path, func() error { return errors.Join(prepare(), allowPorts()) })
	}
	if err != nil {
		unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // mostly nothing is there
		return fmt.Errorf("prepare network for other users: %w", err)
	}
	undo.add(func() error { return os.NewSyscallError("unmount sysfs", unix.Unmount(dir, unix.MNT_DETACH)) })
	r.sysfs = dir
	return nil
}

// allowPorts lets everybody in this thread's network use low ports, and ping.
func allowPorts() error {
	const dir = "/proc/sys/net/ipv4/"
	return errors.Join(
		os.WriteFile(dir+"ip_unprivileged_port_start", []byte("0"), 0),
		os.WriteFile(dir+"ping_group_range", []byte("0 2147483647"), 0))
}

// initFD is what kiln-init has as a descriptor in a remapped process, which may not look
// for it in this one.
const initFD = 4

// remap has cmd, which starts kiln-init, begin in a user namespace. There it is a user
// without a number at first, the host's root without any of its capabilities, so that it
// finds what is root's alone; it has all those of the namespace. See inside.Sandbox.
func (n *native) remap(cmd *exec.Cmd, users *idmap.Map) {
	cmd.Path = fmt.Sprintf("/proc/self/fd/%d", initFD)
	cmd.ExtraFiles = append(cmd.ExtraFiles, n.init)
	attr := cmd.SysProcAttr
	attr.UidMappings, attr.GidMappings, attr.GidMappingsEnableSetgroups = users.UIDs(), users.GIDs(), true
	for c := range n.lastCap + 1 {
		attr.AmbientCaps = append(attr.AmbientCaps, uintptr(c))
	}
}

// startIn is start in a network namespace ("" is the host's), on a thread of its own,
// which ends when the channel is closed or p: the process dies with it.
func (p *parent) startIn(network string, cmd *exec.Cmd, ended <-chan struct{}) error {
	err := make(chan error)
	start := func() {
		err <- cmd.Start()
		select {
		case <-ended:
		case <-p.done:
		}
	}
	go func() {
		if network == "" {
			runtime.LockOSThread() // and never unlock it: the thread ends with the goroutine
			start()
			return
		}
		if e := netns.Do(network, func() error { start(); return nil }); e != nil {
			err <- e // nothing was started
		}
	}()
	return <-err
}

// raiseLimits lets a process set its hard limits, which a root of a user namespace
// can't raise.
func raiseLimits(pid int, limits []inside.Rlimit) error {
	for _, l := range limits {
		var old unix.Rlimit
		if err := unix.Prlimit(pid, l.Resource, nil, &old); err != nil {
			return fmt.Errorf("limit %d: %w", l.Resource, err)
		}
		if l.Hard <= old.Max {
			continue
		}
		if err := unix.Prlimit(pid, l.Resource, &unix.Rlimit{Cur: old.Cur, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("limit %d: %w", l.Resource, err)
		}
	}
	return nil
}

// showDevices shows the host's device nodes in the place of those that a user namespace
// can't make.
func showDevices(s *inside.Sandbox) error {
	for _, d := range s.Devices {
		var st unix.Stat_t
		if err := unix.Stat(d.Path, &st); err != nil {
			return &os.PathError{Op: "device", Path: d.Path, Err: err}
		}
		if st.Mode&unix.S_IFMT != d.Mode&unix.S_IFMT || st.Rdev != d.Dev {
			return fmt.Errorf("device %s: it is another one on the host, whose node has to be shown where users are remapped", d.Path)
		}
		s.Mounts = append(s.Mounts, inside.Mount{Target: d.Path, Type: "bind", Source: d.Path})
	}
	s.Devices = nil
	return nil
}
