package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// markName is a file that holds the boot id of the machine's run in which the
// store was last open.
const markName = "boot"

// Wipe removes everything below root that a store keeps there. No store may
// have it open, and nothing of it may be mounted.
func Wipe(root string) error {
	names, err := filepath.Glob(filepath.Join(root, "snapshots-*"))
	if err != nil {
		return err
	}
	for _, name := range []string{"meta.db", "content", "private", markName} {
		names = append(names, filepath.Join(root, name))
	}
	for _, name := range names {
		if err := mount.UnmountRecursive(name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil { // lazy layers
			return fmt.Errorf("wipe the embedded store: %w", err)
		}
		if err := os.RemoveAll(name); err != nil {
			return fmt.Errorf("wipe the embedded store: %w", err)
		}
	}
	return nil
}

// MarkClean makes what the store below root holds outlast a crash of the
// machine; without it the next Open after a reboot starts afresh. It is for
// the orderly end of a daemon, after Close; it writes out the whole filesystem
// and may take seconds.
func MarkClean(root string) error {
	dir, err := os.Open(root)
	if err != nil {
		return fmt.Errorf("mark the embedded store as clean: %w", err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("mark the embedded store as clean: sync %s: %w", root, err)
	}
	if err := os.Remove(filepath.Join(root, markName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("mark the embedded store as clean: %w", err)
	}
	return dir.Sync()
}

// dropSpoiled wipes the root where the store was open, or not yet on disk,
// when the machine went down; then it marks the store as open in this run.
func dropSpoiled(root string) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("embedded store: boot id: %w", err)
	}
	path := filepath.Join(root, markName)
	switch last, err := os.ReadFile(path); {
	case err == nil && string(last) == string(boot):
		return nil
	case err == nil:
		if err := Wipe(root); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("embedded store: %w", err)
	}
	return writeSynced(path, boot)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("embedded store: %w", err)
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// lock keeps other processes, and other stores of this one, off the root.
func lock(root string) (unlock func(), err error) {
	path := filepath.Join(root, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded store: %w", err)
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			holder, _ := os.ReadFile(path)
			f.Close()
			return nil, fmt.Errorf("embedded store: %s is in use by another process (%s); stop it or choose another root directory: %w",
				root, strings.TrimSpace(string(holder)), err)
		}
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "pid %d\n", os.Getpid())
	}
	return func() { f.Close() }, nil
}
