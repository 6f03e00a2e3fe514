package fileop

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// ReadFile reads a regular file of at most limit bytes.
func (t *Tree) ReadFile(file string, limit int64) ([]byte, error) {
	p, err := t.resolve(file)
	if err != nil {
		return nil, err
	}
	f, err := t.openAt(p, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, pathError("stat", p, errno(err))
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", file)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, pathError("read", p, errno(err))
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%q exceeds %d bytes", file, limit)
	}
	return data, nil
}
