package fileop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUsersAndGroups(t *testing.T) {
	t.Parallel()
	tree, root := grow(t, "d755 0:0 etc\nd755 0:0 real\nl 0:0 etc/passwd -> /real/passwd\nl 0:0 etc/group -> ../../../real/group")
	must(t, os.WriteFile(filepath.Join(root, "real/passwd"), []byte(strings.Join([]string{
		"root:x:0:0:root:/root:/bin/sh", "", "# a comment", "app:x:1000:1001::/:/bin/sh", "app:x:5:5::/:",
		"short:x:7", "bad:x:-1:0", "huge:x:4294967296:0", "all:x:4294967295:0", "last:x:3:4",
	}, "\n")), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "real/group"), []byte("app:x:2000:\nbad:x:y:\n"), 0o644))
	for _, c := range []struct {
		name     string
		uid, gid uint32
		wantErr  string
	}{
		{"root", 0, 0, ""},
		{"app", 1000, 1001, ""},
		{"last", 3, 4, ""},
		{"nobody", 0, 0, ""},
		{"", 0, 0, ""},
		{"short", 0, 0, `"/etc/passwd": the entry of "short" is incomplete`},
		{"bad", 0, 0, `"/etc/passwd": the entry of "bad" has the invalid id "-1"`},
		{"huge", 0, 0, `"/etc/passwd": the entry of "huge" has the invalid id "4294967296"`},
		{"all", 0, 0, `"/etc/passwd": the entry of "all" has the invalid id "4294967295"`},
	} {
		uid, gid, err := tree.User(c.name)
		if c.wantErr != "" {
			fails(t, err, c.wantErr)
		} else if err != nil || uid != c.uid || gid != c.gid {
			t.Errorf("user %q: %d, %d, %v", c.name, uid, gid, err)
		}
	}
	if gid, found, err := tree.Group("app"); gid != 2000 || !found || err != nil {
		t.Errorf("group app: %d, %v, %v", gid, found, err)
	}
	if _, found, err := tree.Group("none"); found || err != nil {
		t.Errorf("group none: %v, %v", found, err)
	}
	_, _, err := tree.Group("bad")
	fails(t, err, `"/etc/group": the entry of "bad" has the invalid id "y"`)
}

func TestUserFilesThatAreNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ tree, wantErr string }{
		"no file":            {"", ""},
		"no directory":       {"f644 0:0 etc", ""},
		"link to nothing":    {"d755 0:0 etc\nl 0:0 etc/passwd -> none", ""},
		"pipe":               {"d755 0:0 etc\np644 0:0 etc/passwd", `"/etc/passwd" is not a regular file`},
		"directory":          {"d755 0:0 etc\nd755 0:0 etc/passwd", `"/etc/passwd" is not a regular file`},
		"link out of it all": {"d755 0:0 etc\nl 0:0 etc/passwd -> ../../../../../../../etc/passwd", "resolve /etc/passwd: too many levels of symbolic links"},
	} {
		tree, _ := grow(t, c.tree)
		uid, gid, err := tree.User("daemon")
		if c.wantErr != "" {
			fails(t, err, c.wantErr)
		} else if err != nil || uid != 0 || gid != 0 {
			t.Errorf("%s: %d, %d, %v", name, uid, gid, err)
		}
	}
}

func TestUserFileTooLarge(t *testing.T) {
	t.Parallel()
	tree, root := grow(t, "d755 0:0 etc\nf644 0:0 etc/passwd")
	must(t, os.Truncate(filepath.Join(root, "etc/passwd"), 1<<40))
	_, _, err := tree.User("app")
	fails(t, err, `"/etc/passwd" exceeds 10485760 bytes`)
}
