package idmap

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Bind mounts the directory or file source, without what is mounted in it, on target,
// with more attributes (MOUNT_ATTR_*). What lies there as a user's of the namespace is
// that user's there.
func (m *Map) Bind(source, target string, attrs uint64) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: source, Err: err}
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: attrs | unix.MOUNT_ATTR_IDMAP, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(m.namespace.Fd()),
	})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("users can't be remapped in %s: its filesystem, or this kernel, doesn't map owners: %w", source, err)
	}
	if err != nil {
		return &os.PathError{Op: "mount_setattr", Path: source, Err: err}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// keepCaps is SECBIT_NO_SETUID_FIXUP: who stops being root keeps the capabilities.
const keepCaps = 1 << 2

// Do calls f on a thread that makes files as the root of the namespace, and otherwise
// may do what this process may: as the host's root nobody can make any where owners
// are mapped. An overlay that is mounted by f makes its own files so. With a nil Map
// it just calls f.
func (m *Map) Do(f func() error) error {
	if m == nil {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // by this thread others see the process
			err := m.Do(f) // on another one, as long as this is locked
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- m.as(f) // the thread, never unlocked, ends with the goroutine
	}()
	return <-done
}

func (m *Map) as(f func() error) error {
	uid, gid, err := m.Host(0, 0)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, keepCaps, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_SECUREBITS)", err)
	}
	if _, err := unix.SetfsgidRetGid(gid); err != nil {
		return os.NewSyscallError("setfsgid", err)
	}
	if _, err := unix.SetfsuidRetUid(uid); err != nil {
		return os.NewSyscallError("setfsuid", err)
	}
	return f()
}

// Admit lets the root of the namespace pass through a directory of the host's root, if
// not everybody may: to what is mounted in it.
func (m *Map) Admit(dir string) error {
	if m == nil {
		return nil
	}
	fi, err := os.Stat(dir)
	if err != nil || fi.Mode()&0o001 != 0 {
		return err
	}
	_, gid, err := m.Host(0, 0)
	if err != nil {
		return err
	}
	if err := os.Chown(dir, -1, gid); err != nil {
		return err
	}
	return os.Chmod(dir, fi.Mode().Perm()|0o010)
}
