package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plant makes a tree of lines. Each is a kind with the permissions, an owner,
// a path and what belongs to it:
//
//	d755 0:0 dir
//	f644 1:2 dir/file its content
//	l 0:0 link -> target
//	h file => other name
//	p600 0:0 pipe
//	s600 0:0 socket
//
// All have distinct times, in seconds from 100, by their line.
func plant(t *testing.T, root, lines string) {
	t.Helper()
	must(t, os.Chmod(root, 0o755))
	var paths []string
	for _, line := range split(lines) {
		f := strings.SplitN(line, " ", 4)
		if f[0] == "h" {
			p := filepath.Join(root, f[3])
			must(t, os.Link(filepath.Join(root, f[1]), p))
			continue
		}
		p := filepath.Join(root, f[2])
		perm := uint64(0o777)
		var err error
		if len(f[0]) > 1 {
			perm, err = strconv.ParseUint(f[0][1:], 8, 32)
			must(t, err)
		}
		switch f[0][0] {
		case 'd':
			must(t, os.Mkdir(p, 0o700))
		case 'f':
			content := ""
			if len(f) > 3 {
				content = f[3]
			}
			must(t, os.WriteFile(p, []byte(content), 0o600))
		case 'l':
			must(t, os.Symlink(strings.TrimPrefix(f[3], "-> "), p))
		case 'p':
			must(t, unix.Mkfifo(p, 0o600))
		case 's':
			must(t, unix.Mknod(p, unix.S_IFSOCK|0o600, 0))
		}
		uid, gid, _ := strings.Cut(f[1], ":")
		u, _ := strconv.Atoi(uid)
		g, _ := strconv.Atoi(gid)
		must(t, os.Lchown(p, u, g))
		if f[0][0] != 'l' {
			must(t, unix.Chmod(p, uint32(perm)))
		}
		paths = append(paths, p)
	}
	for i, p := range append([]string{root}, paths...) {
		ts := unix.NsecToTimespec(time.Unix(int64(100+i), 0).UnixNano())
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// show lists a tree in the language of plant, with " @" and the time in front
// of the path's content where it is not recent.
func show(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	names := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		must(t, err)
		rel, _ := filepath.Rel(root, p)
		if rel == "." {
			return nil
		}
		var st syscall.Stat_t
		must(t, syscall.Lstat(p, &st))
		if first := names[st.Ino]; first != "" && !e.IsDir() {
			fmt.Fprintf(&b, "h %s => %s\n", first, rel)
			return nil
		}
		names[st.Ino] = rel
		kind := map[uint32]string{
			unix.S_IFDIR: "d", unix.S_IFREG: "f", unix.S_IFIFO: "p", unix.S_IFSOCK: "s", unix.S_IFCHR: "c",
		}[st.Mode&unix.S_IFMT]
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			kind = "l"
		} else {
			kind += strconv.FormatUint(uint64(st.Mode&0o7777), 8)
		}
		fmt.Fprintf(&b, "%s %d:%d %s", kind, st.Uid, st.Gid, rel)
		if st.Mtim.Sec < 1_000_000_000 {
			fmt.Fprintf(&b, " @%d", st.Mtim.Sec)
		}
		switch kind[0] {
		case 'f':
			content, err := os.ReadFile(p)
			must(t, err)
			if len(content) > 0 {
				fmt.Fprintf(&b, " %s", content)
			}
		case 'l':
			target, err := os.Readlink(p)
			must(t, err)
			fmt.Fprintf(&b, " -> %s", target)
		}
		b.WriteString("\n")
		return nil
	}))
	return b.String()
}

func split(text string) []string {
	var lines []string
	for _, l := range strings.Split(text, "\n") {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	return lines
}

// same compares a listing with the one that is wanted.
func same(t *testing.T, got, want string) {
	t.Helper()
	if w := strings.Join(split(want), "\n"); strings.TrimSpace(got) != w {
		t.Errorf("got\n%s\nwant\n%s", got, w)
	}
}

// fails compares an error's text.
func fails(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

// grow plants a tree in a directory of its own.
func grow(t *testing.T, lines string) (*Tree, string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	must(t, os.Mkdir(root, 0o755))
	plant(t, root, lines)
	tree, err := Open(root)
	must(t, err)
	t.Cleanup(func() { tree.Close() })
	return tree, root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for _, name := range []string{"file", "missing"} {
		if _, err := Open(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
	if _, err := Open(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
