package layer

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// labelLinked is on a snapshot whose files are links to those of another:
// the bytes on disk that both have, a space, and the name of the other.
const labelLinked = "kiln.build/linked"

// Linked reads from a snapshot's labels with which other snapshot it shares
// files, and how many bytes on disk both count; "" where it shares none.
func Linked(labels map[string]string) (with string, bytes int64) {
	number, with, ok := strings.Cut(labels[labelLinked], " ")
	bytes, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || bytes < 0 {
		return "", 0
	}
	return with, bytes
}

// linkedLabel describes a directory that was filled with links to the files of
// the snapshot with the name.
func linkedLabel(dir, name string) (string, error) {
	var bytes int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !seen[st.Ino] {
			seen[st.Ino] = true
			bytes += st.Blocks * 512
		}
		return nil
	})
	return linkedText(bytes, name), err
}

func linkedText(bytes int64, name string) string { return fmt.Sprintf("%d %s", bytes, name) }
