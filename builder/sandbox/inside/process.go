package inside

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// restrict takes from this process what the one that is executed may not have. The
// order of the calls is the point: each needs a right that a later one takes.
func (p *Process) restrict() error {
	for _, l := range p.Rlimits {
		if err := unix.Prlimit(0, l.Resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("limit %d: %w", l.Resource, err)
		}
	}
	if p.AppArmor != "" {
		if err := setAppArmor(p.AppArmor); err != nil {
			return fmt.Errorf("AppArmor profile %s: %w", p.AppArmor, err)
		}
	}
	if p.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", err)
		}
	}
	if err := p.ownStreams(); err != nil {
		return err
	}
	if err := p.loadFilter(); err != nil {
		return fmt.Errorf("seccomp filter: %w", err)
	}
	// A directory that only root may enter, or only the user.
	entered := unix.Chdir(p.Cwd)
	if entered != nil && !errors.Is(entered, unix.EACCES) {
		return &os.PathError{Op: "chdir", Path: p.Cwd, Err: entered}
	}
	if err := p.Caps.bound(); err != nil {
		return err
	}
	if err := p.become(); err != nil {
		return err
	}
	if entered != nil {
		if err := unix.Chdir(p.Cwd); err != nil {
			return &os.PathError{Op: "chdir", Path: p.Cwd, Err: err}
		}
	}
	if err := inRoot(); err != nil {
		return fmt.Errorf("working directory %s: %w", p.Cwd, err)
	}
	if err := p.Caps.apply(); err != nil {
		return err
	}
	if !p.DieWithParent {
		return nil
	}
	// A change of the user takes this back, so it comes last.
	return os.NewSyscallError("prctl(PR_SET_PDEATHSIG)", unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0))
}

// setAppArmor has the kernel confine what is executed next.
func setAppArmor(profile string) error {
	for _, name := range []string{"/proc/self/attr/apparmor/exec", "/proc/self/attr/exec"} {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = f.WriteString("exec " + profile)
		return errors.Join(err, f.Close())
	}
	return errors.New("the kernel has no AppArmor")
}

// ownStreams gives the standard streams to the user, who could not open
// /dev/stdout otherwise.
func (p *Process) ownStreams() error {
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if int(st.Uid) == p.UID || st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			continue
		}
		err := unix.Fchown(fd, p.UID, -1)
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EROFS) {
			return os.NewSyscallError("fchown", err)
		}
	}
	return nil
}

// loadFilter filters the system calls of this thread and what it executes.
func (p *Process) loadFilter() error {
	if len(p.Seccomp) == 0 {
		return nil
	}
	filter := make([]unix.SockFilter, len(p.Seccomp))
	for i, in := range p.Seccomp {
		filter[i] = unix.SockFilter{Code: uint16(in[0]), Jt: uint8(in[1]), Jf: uint8(in[2]), K: in[3]}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter = 1 // SECCOMP_SET_MODE_FILTER
	for _, flags := range []uintptr{unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0} {
		_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, flags, uintptr(unsafe.Pointer(&prog)))
		runtime.KeepAlive(&prog)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINVAL {
			return errno
		}
	}
	return unix.EINVAL
}

// become changes the user of this thread, which keeps its capabilities.
func (p *Process) become() error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_KEEPCAPS)", err)
	}
	if err := setUser(p.UID, p.GID, p.Groups); err != nil {
		return err
	}
	return os.NewSyscallError("prctl(PR_SET_KEEPCAPS)", unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0))
}

// setUser changes the user of this thread.
func setUser(uid, gid int, more []int) error {
	groups := make([]uint32, len(more)+1)
	for i, g := range more {
		groups[i] = uint32(g)
	}
	// The library's functions change all threads, and this one may not signal them.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(more)), uintptr(unsafe.Pointer(&groups[0])), 0); errno != 0 {
		return os.NewSyscallError("setgroups", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGID, uintptr(gid), 0, 0); errno != 0 {
		return os.NewSyscallError("setgid", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETUID, uintptr(uid), 0, 0); errno != 0 {
		return os.NewSyscallError("setuid", errno)
	}
	return nil
}

// bound drops capabilities from the bounding set.
func (c *Caps) bound() error {
	for n := range c.Last + 1 {
		if c.Bounding&(1<<n) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl(PR_CAPBSET_DROP)", err)
		}
	}
	return nil
}

// apply sets the other sets.
func (c *Caps) apply() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		shift := 32 * i
		data[i] = unix.CapUserData{
			Effective: uint32(c.Effective >> shift), Permitted: uint32(c.Permitted >> shift), Inheritable: uint32(c.Inheritable >> shift),
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_CAP_AMBIENT_CLEAR_ALL)", err)
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return os.NewSyscallError("capset", err)
	}
	for n := range c.Last + 1 {
		if c.Ambient&(1<<n) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0); err != nil {
			return os.NewSyscallError("prctl(PR_CAP_AMBIENT_RAISE)", err)
		}
	}
	return nil
}

// inRoot fails if the working directory is not in the root: a link of /proc may
// have led to what this process has open.
func inRoot() error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Getcwd(buf)
	if err != nil {
		return os.NewSyscallError("getcwd", err)
	}
	if n < 2 || !filepath.IsAbs(string(buf[:n-1])) {
		return errors.New("it is outside of the root")
	}
	return nil
}
