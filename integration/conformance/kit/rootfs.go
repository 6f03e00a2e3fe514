package kit

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// The trees of the stand-in images. Tests look at these things of the images
// that they are named after: commands and where they lie, links of /bin, users,
// modes of directories, the release file.

// busyboxTree has all commands as hard links in /bin.
func (k *Kit) busyboxTree(ctx context.Context) (*tree, error) {
	program, err := os.ReadFile(k.path("busybox"))
	if err != nil {
		return nil, err
	}
	applets, err := run(ctx, "", nil, k.path("busybox"), "--list")
	if err != nil {
		return nil, err
	}
	t := &tree{}
	t.dirs(0o755, "bin", "dev", "etc", "usr", "usr/bin", "var", "var/spool", "var/www")
	t.add(entry{name: "home/", mode: 0o755, uid: 65534, gid: 65534})
	t.add(entry{name: "usr/sbin/", mode: 0o755, uid: 1, gid: 1})
	t.add(entry{name: "var/spool/mail/", mode: 0o755, uid: 8, gid: 8})
	t.dirs(0o700, "root")
	t.dirs(0o1777, "tmp")
	t.file(0o755, "bin/[", program)
	names := append(strings.Fields(applets), "busybox")
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name != "[" {
			t.add(entry{name: "bin/" + name, mode: 0o755, hardlink: "bin/["})
		}
	}
	t.link("usr/bin/env", "../../bin/env")
	t.users(1)
	return t, nil
}

// alpineTree has all commands as symbolic links to /bin/busybox in the usual
// folders, and an apk that fetches "packages" from the sandbox's web server.
func (k *Kit) alpineTree(ctx context.Context) (*tree, error) {
	program, err := os.ReadFile(k.path("busybox"))
	if err != nil {
		return nil, err
	}
	applets, err := run(ctx, "", nil, k.path("busybox"), "--list-full")
	if err != nil {
		return nil, err
	}
	authorities, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		return nil, err
	}
	t := &tree{}
	t.dirs(0o755, "bin", "dev", "etc", "etc/ssl", "etc/ssl/certs", "home", "lib", "media", "media/cdrom", "media/floppy",
		"media/usb", "mnt", "opt", "run", "sbin", "srv", "usr", "usr/bin", "usr/lib", "usr/local", "usr/local/bin",
		"usr/local/lib", "usr/sbin", "usr/share", "var", "var/cache", "var/lib", "var/local", "var/lock", "var/log",
		"var/opt", "var/spool")
	t.dirs(0o700, "root")
	t.dirs(0o555, "proc", "sys", "var/empty")
	t.dirs(0o1777, "tmp", "var/tmp")
	t.link("var/run", "/run")
	t.file(0o755, "bin/busybox", program)
	for _, name := range strings.Fields(applets) {
		if name != "bin/busybox" && name != "linuxrc" {
			t.link(name, "/bin/busybox")
		}
	}
	t.users(2)
	t.file(0o644, "etc/alpine-release", []byte("3.18.0\n"))
	t.file(0o644, "etc/hostname", []byte("localhost\n"))
	t.file(0o644, "etc/hosts", []byte("127.0.0.1\tlocalhost\n"))
	t.file(0o644, "etc/os-release", []byte("NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.18.0\nPRETTY_NAME=\"stand-in\"\n"))
	t.file(0o644, "etc/profile", []byte("export PATH=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\n"))
	t.file(0o644, "etc/shells", []byte("/bin/sh\n/bin/ash\n"))
	t.file(0o644, "etc/ssl/certs/ca-certificates.crt", authorities)
	t.link("etc/ssl/cert.pem", "certs/ca-certificates.crt")
	t.file(0o755, "sbin/apk", fmt.Appendf(nil, apk, WebAddress))
	return t, nil
}

// WebAddress is where the sandbox has to offer the folder Web: the first
// address that is reserved for documentation.
const WebAddress = "192.0.2.1"

const apk = `#!/bin/sh
for arg; do
  case $arg in
  add|update|-*) ;;
  *) wget -q -O /tmp/apk.tgz "http://%s/apk/$arg.tar.gz" && tar -xzf /tmp/apk.tgz -C / || exit 1; rm -f /tmp/apk.tgz ;;
  esac
done
`

// users adds the files of users, with daemon's ids as given.
func (t *tree) users(daemon int) {
	t.file(0o644, "etc/passwd", fmt.Appendf(nil, `root:x:0:0:root:/root:/bin/sh
daemon:x:%[1]d:%[1]d:daemon:/usr/sbin:/bin/false
mail:x:8:8:mail:/var/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`, daemon))
	t.file(0o644, "etc/group", fmt.Appendf(nil, `root:x:0:
daemon:x:%d:
sys:x:3:
tty:x:5:
mail:x:8:
wheel:x:10:root
www-data:x:33:
users:x:100:
nobody:x:65534:
`, daemon))
	t.file(0o600, "etc/shadow", []byte("root:*:::::::\nnobody:!:::::::\n"))
}

func (t *tree) dirs(mode int64, names ...string) {
	for _, name := range names {
		t.add(entry{name: path.Clean(name) + "/", mode: mode})
	}
}

func (t *tree) file(mode int64, name string, body []byte) {
	t.add(entry{name: name, mode: mode, body: body})
}

func (t *tree) link(name, target string) {
	t.add(entry{name: name, mode: 0o777, symlink: target})
}
