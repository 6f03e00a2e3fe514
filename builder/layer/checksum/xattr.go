package checksum

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// readXattrs reads the extended attributes that count. A file system without
// attributes has none.
func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) (map[string][]byte, error) {
	names, err := readAll(list)
	if err == unix.ENOTSUP || err == unix.EPERM {
		return nil, nil
	}
	if err != nil || len(names) == 0 {
		return nil, err
	}
	xattrs := map[string][]byte{}
	for _, name := range bytes.Split(bytes.TrimSuffix(names, []byte{0}), []byte{0}) {
		k := string(name)
		if !countsXattr(k) {
			continue
		}
		v, err := readAll(func(b []byte) (int, error) { return get(k, b) })
		if err == unix.ENODATA || err == unix.EPERM || err == unix.ENOTSUP {
			continue // gone, or not for us to see
		}
		if err != nil {
			return nil, err
		}
		xattrs[k] = v
	}
	return xattrs, nil
}

// readAll calls read with a large enough buffer.
func readAll(read func([]byte) (int, error)) ([]byte, error) {
	var small [256]byte
	n, err := read(small[:])
	if err == nil {
		return append([]byte(nil), small[:n]...), nil
	}
	for size := 4 << 10; err == unix.ERANGE && size <= 128<<10; size *= 4 {
		b := make([]byte, size)
		if n, err = read(b); err == nil {
			return b[:n], nil
		}
	}
	return nil, err
}
