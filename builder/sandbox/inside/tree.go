package inside

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// enter makes the sandbox around this process.
func (s *Sandbox) enter(p *Process) error {
	unix.KeyctlJoinSessionKeyring("_ses." + s.ID) //nolint:errcheck // kernels without keyrings have none to hide
	if err := s.namespaces(); err != nil {
		return err
	}
	unix.Umask(0)
	// Nothing that is mounted here is seen on the host.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return os.NewSyscallError("mount / as slave", err)
	}
	trees := make([]int, len(s.Mounts))
	for i, m := range s.Mounts {
		var err error
		if trees[i], err = m.open(); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	if err := pivot(s.Root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if s.Remapped {
		if err := setUser(0, 0, nil); err != nil {
			return fmt.Errorf("become root: %w", err)
		}
	}
	for i, m := range s.Mounts {
		if err := m.attach(trees[i]); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	return s.finish(p)
}

func (s *Sandbox) namespaces() error {
	if s.Network != "" {
		fd, err := unix.Open(s.Network, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open network namespace", Path: s.Network, Err: err}
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns(CLONE_NEWNET)", err)
		}
	}
	if s.Loopback {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
	}
	if s.CgroupNamespace {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return os.NewSyscallError("unshare(CLONE_NEWCGROUP)", err)
		}
	}
	if s.Hostname == "" {
		return nil
	}
	return os.NewSyscallError("sethostname", unix.Sethostname([]byte(s.Hostname)))
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// pivot makes dir the root and lets go of everything else.
func pivot(dir string) error {
	root, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	defer unix.Close(root)
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: dir, Err: err}
	}
	old, err := unix.Open("/", unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open old root", err)
	}
	defer unix.Close(old)
	if err := unix.Fchdir(root); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Fchdir(old); err != nil {
		return os.NewSyscallError("fchdir to old root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount old root", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}

// finish makes what is not a mount, and takes rights off mounts.
func (s *Sandbox) finish(p *Process) error {
	for _, d := range s.Devices {
		if err := d.make(); err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	for _, l := range s.Links {
		if err := unix.Symlink(l[1], l[0]); err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "symlink", Path: l[0], Err: err}
		}
	}
	if p.Terminal {
		peer, err := openTerminal()
		if err == nil {
			err = mountConsole(peer)
		}
		if err != nil {
			return err
		}
	}
	// A working directory below a mount could not be made before.
	if fd, err := place(p.Cwd, directory); err == nil {
		unix.Close(fd) //nolint:errcheck // nothing was written
	}
	for _, target := range s.Readonly {
		if err := makeReadonly(target); err != nil {
			return fmt.Errorf("make %s read-only: %w", target, err)
		}
	}
	if err := mask(s.Masked); err != nil {
		return err
	}
	unix.Umask(0o022)
	if !s.RootReadonly {
		return nil
	}
	root, err := open("/", 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	return setAttr(root, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, 0)
}
