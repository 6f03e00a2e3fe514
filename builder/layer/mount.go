package layer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// mountAll mounts all on the directory, or nothing.
func mountAll(mounts []mount.Mount, dir string) error {
	for _, m := range mounts {
		mountOne := m.Mount
		if m.Type == "overlay" && tooLong(m.Options) {
			mountOne = func(dir string) error {
				err := mountLongOverlay(m, dir)
				if err != nil && m.Mount(dir) == nil { // the kernel is too old, but it wasn't too long
					return nil
				}
				return err
			}
		}
		if err := mountOne(dir); err != nil {
			return errors.Join(fmt.Errorf("mount %s: %w", m.Type, err), unmountAll(dir))
		}
	}
	return nil
}

// byProgram reports whether a program shows what is mounted: when it has been
// killed, nothing there can be read any more.
func byProgram(mounts []mount.Mount) bool {
	return slices.ContainsFunc(mounts, func(m mount.Mount) bool {
		return strings.HasPrefix(m.Type, "fuse.") || strings.HasPrefix(m.Type, "fuse3.")
	})
}

// tooLong reports whether mount(2), which takes one page of options, could cut
// them.
func tooLong(options []string) bool {
	n := 0
	for _, o := range options {
		n += len(o) + 1
	}
	return n >= os.Getpagesize()-512
}

// mountLongOverlay mounts an overlay of any number of lower directories (the
// kernel's own limit is 500) by giving them one at a time.
func mountLongOverlay(m mount.Mount, dir string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	attrs := 0
	for _, o := range m.Options {
		key, value, hasValue := strings.Cut(o, "=")
		switch {
		case key == "lowerdir":
			for _, lower := range strings.Split(value, ":") {
				if err := unix.FsconfigSetString(fs, "lowerdir+", lower); err != nil {
					return fmt.Errorf("fsconfig lowerdir+=%s: %w%s", lower, err, kernelSays(fs))
				}
			}
			continue
		case o == "ro":
			attrs |= unix.MOUNT_ATTR_RDONLY
			continue
		case o == "rw":
			continue
		case hasValue:
			err = unix.FsconfigSetString(fs, key, value)
		default:
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return fmt.Errorf("fsconfig %s: %w%s", o, err, kernelSays(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("fsconfig create: %w%s", err, kernelSays(fs))
	}
	mfd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return fmt.Errorf("fsmount: %w", err)
	}
	defer unix.Close(mfd)
	return unix.MoveMount(mfd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// kernelSays returns the kernel's explanation of the last error, if any.
func kernelSays(fs int) string {
	buf := make([]byte, 1024)
	n, err := unix.Read(fs, buf)
	if err != nil || n <= 0 {
		return ""
	}
	return ": " + strings.TrimSpace(string(buf[:n]))
}

// unmountAll unmounts whatever is mounted on the directory itself. A mount
// that stays busy is detached: it ends when the last user has gone.
func unmountAll(dir string) error {
	for tries := 0; ; {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			if tries++; tries < 10 {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // nothing is mounted there (any more)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}

// unmountDir unmounts and removes a directory made by newDir.
func unmountDir(dir string) error {
	if err := unmountAll(dir); err != nil {
		return err
	}
	// Never RemoveAll: a mount that survived must not be emptied.
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// withVolatile tells overlay mounts not to sync; ok is false where there is no
// writable one. The kernel refuses to mount a work directory a second time
// after that, see [forgetVolatile].
func withVolatile(mounts []mount.Mount) (_ []mount.Mount, ok bool) {
	mounts = slices.Clone(mounts)
	for i, m := range mounts {
		if m.Type == "overlay" && workdir(m) != "" {
			mounts[i].Options = append(slices.Clone(m.Options), "volatile")
			ok = true
		}
	}
	return mounts, ok
}

// forgetVolatile lets the mounts be mounted again although they were mounted
// volatile. That is right as long as the machine didn't crash in between.
func forgetVolatile(mounts []mount.Mount) error {
	for _, m := range mounts {
		if dir := workdir(m); dir != "" {
			if err := os.RemoveAll(filepath.Join(dir, "work", "incompat")); err != nil {
				return fmt.Errorf("reuse overlay work directory: %w", err)
			}
		}
	}
	return nil
}

func workdir(m mount.Mount) string {
	for _, o := range m.Options {
		if dir, ok := strings.CutPrefix(o, "workdir="); ok && m.Type == "overlay" {
			return dir
		}
	}
	return ""
}
