package inside

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openTerminal makes a terminal of the sandbox' own, sends its one end to the
// daemon, and makes the other the standard streams of this process.
func openTerminal() (peer int, err error) {
	master, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/dev/pts/ptmx", Err: err}
	}
	defer unix.Close(master)
	var st unix.Statfs_t
	if err := unix.Fstatfs(master, &st); err != nil || st.Type != unix.DEVPTS_SUPER_MAGIC {
		return -1, errors.New("/dev/pts has no terminals")
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, os.NewSyscallError("unlock terminal", err)
	}
	// By its path the other end could be something else.
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, os.NewSyscallError("open terminal", errno)
	}
	peer = int(fd)
	if err := unix.Sendmsg(controlFD, []byte{Terminal}, unix.UnixRights(master), nil, 0); err != nil {
		return -1, os.NewSyscallError("send terminal", err)
	}
	for stream := range 3 {
		if err := unix.Dup2(peer, stream); err != nil {
			return -1, os.NewSyscallError("dup2", err)
		}
	}
	return peer, os.NewSyscallError("ioctl(TIOCSCTTY)", unix.IoctlSetInt(peer, unix.TIOCSCTTY, 0))
}

// mountConsole makes the terminal /dev/console.
func mountConsole(peer int) error {
	at, err := place("/dev/console", file)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	tree, err := clone(peer)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return move(tree, at)
}
