package fileop

import (
	"crypto/rand"
	"os"
	"path"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// Mkdir makes a directory. One that exists is left as it is.
func (t *Tree) Mkdir(a *pb.FileActionMkDir, owner *Owner) error {
	p, err := t.resolve(a.GetPath())
	if err != nil {
		return err
	}
	d := newDir{perm: uint32(a.GetMode()) & 0o777, owner: owner, times: timesOf(a.GetTimestamp())}
	if a.GetMakeParents() {
		_, err := t.mkdirAll(p, d)
		return err
	}
	if p == "" {
		return nil
	}
	dir, name, err := t.parent(p)
	if err != nil {
		return pathError("mkdir", p, errno(err))
	}
	defer dir.Close()
	switch err := d.make(dir, name); err {
	case nil, unix.EEXIST:
		return nil
	default:
		return pathError("mkdir", p, err)
	}
}

// newDir is what a new directory gets.
type newDir struct {
	perm  uint32
	owner *Owner
	times times
}

func (d newDir) make(parent *os.File, name string) error {
	at := int(parent.Fd())
	if err := unix.Mkdirat(at, name, d.perm); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := d.owner.chownAt(at, name); err != nil {
		return err
	}
	// A set-group-ID bit that the directory has inherited stays.
	if st.Mode&0o777 != d.perm {
		if err := unix.Fchmodat(at, name, d.perm|st.Mode&unix.S_ISGID, 0); err != nil {
			return err
		}
	}
	return d.times.setAt(at, name)
}

// mkdirAll makes the directories of a clean path without links that don't
// exist. It returns those that it made, outermost first.
func (t *Tree) mkdirAll(p string, d newDir) (made []string, err error) {
	at, err := t.openDir("")
	if err != nil {
		return nil, err
	}
	defer func() { at.Close() }()
	done := ""
	for _, name := range strings.Split(p, "/") {
		if name == "" {
			continue
		}
		done = path.Join(done, name)
		next, err := openDirAt(at, name)
		if err == unix.ENOENT {
			if err = d.make(at, name); err == nil {
				made = append(made, done)
				next, err = openDirAt(at, name)
			}
		}
		if err == unix.ELOOP {
			err = unix.ENOTDIR
		}
		if err != nil {
			return made, pathError("mkdir", done, err)
		}
		at.Close()
		at = next
	}
	return made, nil
}

func openDirAt(dir *os.File, name string) (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Mkfile makes a file in a directory that exists. It replaces what was there,
// except for a directory.
func (t *Tree) Mkfile(a *pb.FileActionMkFile, owner *Owner) error {
	p, err := t.resolve(a.GetPath())
	if err != nil {
		return err
	}
	if p == "" {
		return pathError("mkfile", p, unix.EISDIR)
	}
	dir, name, err := t.parent(p)
	if err != nil {
		return pathError("mkfile", p, errno(err))
	}
	defer dir.Close()
	err = writeFile(int(dir.Fd()), name, a, owner)
	if errno(err) == unix.EEXIST {
		err = replaceFile(int(dir.Fd()), name, a, owner)
	}
	if err != nil {
		return pathError("mkfile", p, errno(err))
	}
	return nil
}

// replaceFile makes a file in place of what is there, which must not be opened:
// it may be a device.
func replaceFile(dir int, name string, a *pb.FileActionMkFile, owner *Owner) error {
	temp := ".kiln-" + rand.Text()
	err := writeFile(dir, temp, a, owner)
	if err == nil {
		err = unix.Renameat(dir, temp, dir, name)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temp, 0)
	}
	return err
}

func writeFile(dir int, name string, a *pb.FileActionMkFile, owner *Owner) error {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.Write(a.GetData()); err != nil {
		return err
	}
	if err := owner.chown(fd); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(a.GetMode())&0o777); err != nil {
		return err
	}
	return timesOf(a.GetTimestamp()).setAt(dir, name)
}

// Symlink makes a link whose target is kept as it is written. Nothing may be
// there yet.
func (t *Tree) Symlink(a *pb.FileActionSymlink, owner *Owner) error {
	p, err := t.resolve(a.GetNewpath())
	if err != nil {
		return err
	}
	if p == "" {
		return pathError("symlink", p, unix.EEXIST)
	}
	dir, name, err := t.parent(p)
	if err != nil {
		return pathError("symlink", p, errno(err))
	}
	defer dir.Close()
	at := int(dir.Fd())
	if err := unix.Symlinkat(a.GetOldpath(), at, name); err != nil {
		return pathError("symlink", p, err)
	}
	if err := owner.chownAt(at, name); err != nil {
		return pathError("chown", p, err)
	}
	if err := timesOf(a.GetTimestamp()).setAt(at, name); err != nil {
		return pathError("utime", p, err)
	}
	return nil
}
