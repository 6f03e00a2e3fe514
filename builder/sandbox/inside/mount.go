package inside

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// open makes the mount without a place in the tree. For a filesystem that can be made
// later it returns -1, and attach makes it. In a user namespace those of the kernel's
// files can only be made where the host's are in sight.
func (m *Mount) open() (int, error) {
	switch m.Type {
	case "bind":
	case "proc", "sysfs":
		return filesystem(m.Type, m.Source, m.Data, m.Set)
	default:
		return -1, nil
	}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if m.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: m.Source, Err: err}
	}
	if m.Set != 0 {
		err = setAttr(fd, unix.MountAttr{Attr_set: m.Set, Attr_clr: atimeMask(m.Set)}, flags&unix.AT_RECURSIVE)
	}
	if err == nil && m.Clear != 0 {
		err = setAttr(fd, unix.MountAttr{Attr_clr: m.Clear}, 0)
	}
	return fd, err
}

// atimeMask is what has to be cleared to set another kind of access times.
func atimeMask(set uint64) uint64 {
	if set&unix.MOUNT_ATTR__ATIME != 0 {
		return unix.MOUNT_ATTR__ATIME
	}
	return 0
}

func setAttr(fd int, attr unix.MountAttr, flags uint) error {
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(fd, "", flags|unix.AT_EMPTY_PATH, &attr))
}

// attach puts the mount at its place.
func (m *Mount) attach(tree int) error {
	k := directory
	if tree >= 0 {
		defer unix.Close(tree)
		var st unix.Stat_t
		if err := unix.Fstat(tree, &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			k = file
		}
	}
	if m.Type == "proc" || m.Type == "sysfs" {
		// What is hidden below them must be where it is looked for.
		k = plainDirectory
	}
	at, err := place(m.Target, k)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if m.Type != "proc" {
		if err := notProc(at); err != nil {
			return err
		}
	}
	if tree < 0 {
		if tree, err = m.create(at); err != nil {
			return err
		}
		defer unix.Close(tree)
	}
	if err := move(tree, at); err != nil {
		return err
	}
	if m.Propagation == 0 {
		return nil
	}
	return setAttr(tree, unix.MountAttr{Propagation: m.Propagation &^ unix.MS_REC}, recursive(m.Propagation))
}

func recursive(propagation uint64) uint {
	if propagation&unix.MS_REC != 0 {
		return unix.AT_RECURSIVE
	}
	return 0
}

// notProc refuses mounts on files of the kernel's, which could undo what keeps a
// process in.
func notProc(at int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(at, &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if st.Type == unix.PROC_SUPER_MAGIC {
		return errors.New("it is inside of /proc")
	}
	return nil
}

// create makes a filesystem for the mount point at.
func (m *Mount) create(at int) (int, error) {
	data := m.Data
	hasMode := func(o string) bool { return strings.HasPrefix(o, "mode=") }
	if m.Type == "tmpfs" && !slices.ContainsFunc(data, hasMode) {
		var st unix.Stat_t
		if err := unix.Fstat(at, &st); err != nil {
			return -1, os.NewSyscallError("fstat", err)
		}
		data = append(slices.Clip(data), fmt.Sprintf("mode=%o", st.Mode&0o7777))
	}
	return filesystem(m.Type, m.Source, data, m.Set)
}

func filesystem(kind, source string, data []string, attrs uint64) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen %s: %w", kind, err)
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return -1, fmt.Errorf("fsconfig %s source: %w", kind, err)
		}
	}
	if attrs&unix.MOUNT_ATTR_RDONLY != 0 {
		data = append(slices.Clip(data), "ro")
	}
	for _, o := range data {
		key, value, hasValue := strings.Cut(o, "=")
		if hasValue {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return -1, fmt.Errorf("option %s of %s: %w", o, kind, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("make %s: %w", kind, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attrs))
	if err != nil {
		return -1, fmt.Errorf("fsmount %s: %w", kind, err)
	}
	return fd, nil
}

func move(tree, at int) error {
	err := unix.MoveMount(tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}
