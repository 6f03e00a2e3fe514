// Package netns makes network namespaces, kept by a mount on a file or by an open one,
// and works in them.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Make makes a network namespace, whose loopback is up, and keeps it by a mount on
// the file, which must not exist.
func Make(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	f.Close()
	err = onThread(func() error {
		if err := enterNew(); err != nil {
			return err
		}
		return unix.Mount(threadNamespace, file, "", unix.MS_BIND, "")
	})
	if err != nil {
		return errors.Join(fmt.Errorf("make network namespace: %w", err), Remove(file))
	}
	return nil
}

// New makes a network namespace, whose loopback is up. It is there as long as the file
// is open, or a process is in it.
func New() (file *os.File, err error) {
	err = onThread(func() error {
		if err := enterNew(); err != nil {
			return err
		}
		file, err = os.Open(threadNamespace)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return file, nil
}

const threadNamespace = "/proc/thread-self/ns/net"

// enterNew puts the calling thread into a new namespace.
func enterNew() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// Do calls f on a thread that is in the namespace and ends with f. Sockets that f
// makes itself, not in other goroutines, are of that namespace for good.
func Do(file string, f func() error) error {
	return onThread(func() error {
		ns, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		ns.Close()
		if err != nil {
			return fmt.Errorf("enter network namespace %s: %w", file, err)
		}
		return f()
	})
}

// onThread calls f on a thread that is never unlocked, so it ends with the goroutine.
// That isn't so of the process' main thread, by which others see where the process is.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			err := onThread(f) // on another one, as long as this is locked
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// Is tells whether a namespace is mounted on the file.
func Is(file string) bool {
	var st unix.Statfs_t
	return unix.Statfs(file, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Remove lets a namespace go. It may be gone already.
func Remove(file string) error {
	err := unix.Unmount(file, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount network namespace: %w", err)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}
