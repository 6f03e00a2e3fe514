package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxUserFile bounds /etc/passwd and /etc/group, in bytes.
const maxUserFile = 10 << 20

// User looks a user up in the tree's /etc/passwd. Nobody of that name, or no
// such file, gives root and its group.
func (t *Tree) User(name string) (uid, gid uint32, err error) {
	fields, err := t.userEntry("/etc/passwd", name)
	if err != nil || fields == nil {
		return 0, 0, err
	}
	if uid, err = userID("/etc/passwd", fields, 2); err != nil {
		return 0, 0, err
	}
	gid, err = userID("/etc/passwd", fields, 3)
	return uid, gid, err
}

// Group looks a group up in the tree's /etc/group; found is false where there
// is none of that name.
func (t *Tree) Group(name string) (gid uint32, found bool, err error) {
	fields, err := t.userEntry("/etc/group", name)
	if err != nil || fields == nil {
		return 0, false, err
	}
	gid, err = userID("/etc/group", fields, 2)
	return gid, true, err
}

// userEntry gives the first line of the file that starts with name.
func (t *Tree) userEntry(file, name string) ([]string, error) {
	data, err := t.readUserFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Split(strings.TrimSpace(line), ":"); fields[0] == name && name != "" {
			return fields, nil
		}
	}
	return nil, nil
}

// readUserFile reads a regular file; no data where it does not exist.
func (t *Tree) readUserFile(file string) ([]byte, error) {
	data, err := t.ReadFile(file, maxUserFile)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	return data, err
}

func userID(file string, fields []string, i int) (uint32, error) {
	if i >= len(fields) {
		return 0, fmt.Errorf("%q: the entry of %q is incomplete", file, fields[0])
	}
	id, err := strconv.ParseUint(fields[i], 10, 32)
	if err != nil || id == 1<<32-1 {
		return 0, fmt.Errorf("%q: the entry of %q has the invalid id %q", file, fields[0], fields[i])
	}
	return uint32(id), nil
}
