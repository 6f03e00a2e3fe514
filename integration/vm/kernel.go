package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernel is one of Debian's, unpacked.
type kernel struct {
	dir     string // holds boot and lib/modules
	release string // as uname has it
}

func (k kernel) image() string     { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.release) }
func (k kernel) initramfs() string { return filepath.Join(k.dir, "initramfs") }

// getKernel downloads the newest kernel of a version, unless it is there.
func getKernel(ctx context.Context, dir, version string) (kernel, error) {
	name, err := newestKernel(ctx, version)
	if err != nil {
		return kernel{}, err
	}
	k := kernel{dir: filepath.Join(dir, name), release: strings.TrimPrefix(name, "linux-image-")}
	if _, err := os.Stat(k.initramfs()); err == nil {
		return k, nil
	}
	half, err := os.MkdirTemp(dir, name+"-")
	if err != nil {
		return k, err
	}
	defer os.RemoveAll(half)
	if err := errors.Join(
		runIn(ctx, half, "sh", "-c", "apt-get -q download "+name+" && dpkg-deb -x *.deb . && rm -- *.deb"),
		runIn(ctx, half, "sh", "-c", "find lib/modules -name '*.ko.xz' -exec xz -d {} +"),
		runIn(ctx, half, "depmod", "-b", ".", k.release),
		makeInitramfs(ctx, kernel{half, k.release}),
	); err != nil {
		return k, fmt.Errorf("kernel %s: %w", name, err)
	}
	return k, os.Rename(half, k.dir)
}

// newestKernel is the name of a package.
func newestKernel(ctx context.Context, version string) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "search", "--names-only", `^linux-image-`+strings.ReplaceAll(version, ".", `\.`)+`[.-].*[0-9]-cloud-amd64$`).Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache search: %w", err)
	}
	cmd := exec.CommandContext(ctx, "sort", "--version-sort")
	cmd.Stdin = bytes.NewReader(out)
	sorted, err := cmd.Output()
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(string(sorted)), "\n")
	name, _, ok := strings.Cut(lines[len(lines)-1], " ")
	if !ok {
		return "", fmt.Errorf("apt knows no kernel %s; run apt-get update", version)
	}
	return name, nil
}

// needed are the modules that the root is found with.
var needed = []string{"virtio_pci", "virtio_blk", "virtio_console"}

// makeInitramfs makes an initramfs of busybox, those modules and the script that
// mounts the root.
func makeInitramfs(ctx context.Context, k kernel) error {
	tree, err := os.MkdirTemp(k.dir, "initramfs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	for _, dir := range []string{"bin", "dev", "proc", "sys", "root", "modules"} {
		if err := os.Mkdir(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := copyFile(busybox, filepath.Join(tree, "bin", "busybox")); err != nil {
		return err
	}
	args := append([]string{"-d", k.dir, "-S", k.release, "--all", "--show-depends"}, needed...)
	out, err := exec.CommandContext(ctx, "modprobe", args...).Output()
	if err != nil {
		return fmt.Errorf("modules of %s: %w", k.release, err)
	}
	init := "#!/bin/busybox sh\n/bin/busybox --install -s /bin\n"
	for line := range strings.Lines(string(out)) {
		file, ok := strings.CutPrefix(strings.TrimSpace(line), "insmod ")
		name := filepath.Base(file)
		if !ok || strings.Contains(init, "/"+name+"\n") {
			continue
		}
		if err := copyFile(file, filepath.Join(tree, "modules", name)); err != nil {
			return err
		}
		init += "insmod /modules/" + name + "\n"
	}
	init += "mount -t devtmpfs dev /dev && mount -t ext4 /dev/vda /root && mount --move /dev /root/dev && exec switch_root /root /init\n"
	if err := os.WriteFile(filepath.Join(tree, "init"), []byte(init), 0o755); err != nil {
		return err
	}
	return runIn(ctx, tree, "sh", "-c", "find . | busybox cpio -o -H newc > ../new 2> /dev/null && mv ../new ../initramfs")
}

// runIn runs a program in a folder; what it prints is in the error only.
func runIn(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// copyFile copies a regular file and its mode.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(info.Mode()), out.Close())
}
