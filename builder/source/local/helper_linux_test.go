package local

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

func inode(fi os.FileInfo) (ino, links uint64) {
	st := fi.Sys().(*syscall.Stat_t)
	return st.Ino, st.Nlink
}

func xattrs(t *testing.T, p string) []string {
	t.Helper()
	b := make([]byte, 4096)
	n, err := syscall.Listxattr(p, b)
	if err != nil {
		t.Fatal(err)
	}
	return strings.FieldsFunc(string(b[:n]), func(r rune) bool { return r == 0 })
}
