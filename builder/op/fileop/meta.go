package fileop

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// Owner is who files are to belong to. A nil *Owner keeps a copied file's
// owner, and leaves new files to the user of the process.
type Owner struct{ UID, GID uint32 }

// times are access and modification time; nil keeps those of a copied file,
// and leaves new files' as they are.
type times []unix.Timespec

// timesOf makes times of an action's timestamp: nanoseconds, -1 for none.
func timesOf(timestamp int64) times {
	if timestamp == -1 {
		return nil
	}
	ts := unix.NsecToTimespec(timestamp)
	return times{ts, ts}
}

func (o *Owner) chown(fd int) error {
	if o == nil {
		return nil
	}
	return unix.Fchown(fd, int(o.UID), int(o.GID))
}

func (o *Owner) chownAt(dir int, name string) error {
	if o == nil {
		return nil
	}
	return unix.Fchownat(dir, name, int(o.UID), int(o.GID), unix.AT_SYMLINK_NOFOLLOW)
}

func (t times) setAt(dir int, name string) error {
	if t == nil {
		return nil
	}
	return unix.UtimesNanoAt(dir, name, t, unix.AT_SYMLINK_NOFOLLOW)
}

// permissions are the bits of a mode that chmod sets.
const permissions = 0o7777

// fileMode makes Go's mode of the kernel's.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, flag := range specialBits {
		if mode&bit != 0 {
			m |= flag
		}
	}
	if mode&unix.S_IFMT == unix.S_IFDIR {
		m |= fs.ModeDir
	}
	return m
}

// unixMode gives the permission bits of Go's mode.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, flag := range specialBits {
		if m&flag != 0 {
			mode |= bit
		}
	}
	return mode
}

var specialBits = map[uint32]fs.FileMode{
	unix.S_ISUID: fs.ModeSetuid,
	unix.S_ISGID: fs.ModeSetgid,
	unix.S_ISVTX: fs.ModeSticky,
}
