package local

import (
	"os"
	"syscall"
)

func inode(fi os.FileInfo) (ino, links uint64) {
	st := fi.Sys().(*syscall.Stat_t)
	return st.Ino, uint64(st.Nlink)
}
