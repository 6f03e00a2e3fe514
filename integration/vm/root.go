package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// packages are those that the guest has, with what they depend on.
var packages = []string{
	"base-files", "base-passwd", "bash", "busybox-static", "containernetworking-plugins", "coreutils", "crun", "dash", "dbus", "e2fsprogs",
	"findutils", "fuse-overlayfs", "fuse3", "git", "grep", "iproute2", "iptables", "kmod", "mount", "openssh-client", "procps", "runsc", "sed",
	"systemd", "tar", "uidmap", "util-linux", "xz-utils",
}

// ballast are folders that no test looks at.
var ballast = []string{"/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/"}

//go:embed guest.sh
var guestInit string

// rootDisk makes the disk of the guest's root, unless it is there.
func rootDisk(ctx context.Context, dir string, k kernel) (string, error) {
	installed, err := closure(ctx, packages)
	if err != nil {
		return "", err
	}
	disk := filepath.Join(dir, "root-"+k.release+".ext4")
	made := strings.Join(installed, "\n") + guestInit + fmt.Sprint(units, accounts)
	if old, err := os.ReadFile(disk + ".of"); err == nil && string(old) == made {
		return disk, nil
	}
	tree, err := os.MkdirTemp(dir, "root-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tree)
	if err := copyPackages(ctx, tree, installed); err != nil {
		return "", err
	}
	if err := settings(tree); err != nil {
		return "", err
	}
	if err := errors.Join(
		os.CopyFS(filepath.Join(tree, "usr/lib/modules"), os.DirFS(filepath.Join(k.dir, "lib/modules"))),
		makeDisk(ctx, tree, disk, 4<<10),
	); err != nil {
		return "", err
	}
	return disk, os.WriteFile(disk+".of", []byte(made), 0o644)
}

// closure are the packages, and those that they depend on, as NAME=VERSION.
func closure(ctx context.Context, names []string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Package}|${Version}|${Pre-Depends},${Depends}\n").Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-query: %w", err)
	}
	versions, depends := map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 3)
		versions[f[0]], depends[f[0]] = f[1], f[2]
	}
	found := map[string]bool{}
	for todo := slices.Clone(names); len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if found[name] || versions[name] == "" {
			continue
		}
		found[name] = true
		for _, d := range strings.FieldsFunc(depends[name], func(r rune) bool { return r == ',' || r == '|' }) {
			dep, _, _ := strings.Cut(strings.TrimSpace(d), " ")
			dep, _, _ = strings.Cut(dep, ":")
			todo = append(todo, dep)
		}
	}
	for _, name := range names {
		if !found[name] {
			return nil, fmt.Errorf("the package %s is not installed; run make vm-debs", name)
		}
	}
	var all []string
	for name := range found {
		all = append(all, name+"="+versions[name])
	}
	slices.Sort(all)
	return all, nil
}

// merged are the links of a root whose programs all lie in /usr.
var merged = []string{"bin", "sbin", "lib", "lib64"}

// copyPackages copies the files of packages into a new root.
func copyPackages(ctx context.Context, tree string, installed []string) error {
	for _, name := range merged {
		if err := errors.Join(os.MkdirAll(filepath.Join(tree, "usr", name), 0o755), os.Symlink("usr/"+name, filepath.Join(tree, name))); err != nil {
			return err
		}
	}
	args := []string{"-L"}
	for _, p := range installed {
		name, _, _ := strings.Cut(p, "=")
		args = append(args, name)
	}
	out, err := exec.CommandContext(ctx, "dpkg-query", args...).Output()
	if err != nil {
		return fmt.Errorf("files of packages: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		file := strings.TrimSpace(line)
		if !filepath.IsAbs(file) || slices.ContainsFunc(ballast, func(b string) bool { return strings.HasPrefix(file, b) }) {
			continue
		}
		if err := copyInto(tree, file); err != nil {
			return err
		}
	}
	alternatives, err := filepath.Glob("/etc/alternatives/*")
	for _, file := range alternatives {
		name := filepath.Base(file)
		err = errors.Join(err, copyInto(tree, file), copyInto(tree, "/usr/bin/"+name), copyInto(tree, "/usr/sbin/"+name))
	}
	return err
}

// copyInto copies one file of this machine's into a root, unless it is there. What
// a package has and the machine not is left out.
func copyInto(tree, file string) error {
	if first, _, _ := strings.Cut(file[1:], "/"); slices.Contains(merged, first) {
		file = "/usr" + file
	}
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	to := filepath.Join(tree, file)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if info.Mode().Type() == fs.ModeSymlink {
		target, err := os.Readlink(file)
		if err == nil {
			err = os.Symlink(target, to)
		}
		return ignoreExisting(err)
	}
	return ignoreExisting(copyFile(file, to))
}

func ignoreExisting(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// accounts are those that packages make when they are installed.
var accounts = map[string]string{"passwd": "messagebus:x:101:101::/nonexistent:/usr/sbin/nologin\n", "group": "messagebus:x:101:\n"}

// units are what systemd starts, with nothing of what usually comes first.
var units = map[string]string{
	"kiln.service": "[Unit]\nDefaultDependencies=no\nRequires=dbus.service\nAfter=dbus.service\n[Service]\nType=oneshot\nExecStart=/init\nDelegate=yes\n",
	"dbus.service": "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n" +
		"[Service]\nType=notify\nExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation\n",
	"dbus.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
}

// settings writes what packages make when they are installed.
func settings(tree string) error {
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "root", "var/tmp", "var/lib", "etc", "mnt", "kiln", "opt", "etc/systemd/system"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/hosts": "127.0.0.1 localhost\n::1 localhost\n", "etc/resolv.conf": "nameserver 192.0.2.1\n",
		"etc/subuid": "root:100000:65536\n", "etc/subgid": "root:100000:65536\n", "etc/hostname": "kiln-vm\n",
	}
	for name, text := range units {
		files["etc/systemd/system/"+name] = text
	}
	for _, name := range []string{"passwd", "group"} {
		text, err := os.ReadFile("/usr/share/base-passwd/" + name + ".master")
		if err != nil {
			return err
		}
		files["etc/"+name] = string(text) + accounts[name]
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(tree, "init"), []byte(guestInit), 0o755),
		os.Chmod(filepath.Join(tree, "tmp"), 0o1777|fs.ModeSticky),
	)
}

// makeDisk makes a file system of that many MiB with the files of a folder.
func makeDisk(ctx context.Context, tree, disk string, size int) error {
	half := tree + ".ext4"
	err := runIn(ctx, ".", "mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,root_owner=0:0", "-m", "0", "-d", tree, half, fmt.Sprint(size, "m"))
	return errors.Join(err, os.Rename(half, disk))
}
