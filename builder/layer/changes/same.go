package changes

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// same tells whether nothing changed between a file of the base and one of the
// upper directory, in the sense in which containerd compares trees: times of
// directories don't count, and contents are only read where the times are the
// same full seconds, as they are after unpacking a tar.
func same(a, b fs.FileInfo, aPath, bPath string) (bool, error) {
	as, aok := a.Sys().(*syscall.Stat_t)
	bs, bok := b.Sys().(*syscall.Stat_t)
	if !aok || !bok {
		return false, nil
	}
	if as.Mode != bs.Mode || as.Uid != bs.Uid || as.Gid != bs.Gid || as.Rdev != bs.Rdev {
		return false, nil
	}
	aCap, err := capability(aPath)
	if err != nil {
		return false, err
	}
	bCap, err := capability(bPath)
	if err != nil || !bytes.Equal(aCap, bCap) {
		return false, err
	}
	if a.IsDir() {
		return true, nil
	}
	if a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime()) {
		return false, nil
	}
	if a.ModTime().Nanosecond() != 0 {
		return true, nil
	}
	switch {
	case a.Mode().Type() == fs.ModeSymlink:
		aTarget, err := os.Readlink(aPath)
		if err != nil {
			return false, err
		}
		bTarget, err := os.Readlink(bPath)
		return aTarget == bTarget, err
	case a.Size() == 0 || !a.Mode().IsRegular():
		return true, nil
	}
	return sameContent(aPath, bPath)
}

// capability returns a file's capabilities, nil for none.
func capability(path string) ([]byte, error) {
	buf := make([]byte, 64)
	n, err := unix.Lgetxattr(path, "security.capability", buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "getxattr", Path: path, Err: err}
	}
	return buf[:n], nil
}

func sameContent(aPath, bPath string) (bool, error) {
	a, err := os.Open(aPath)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(bPath)
	if err != nil {
		return false, err
	}
	defer b.Close()
	aBuf, bBuf := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, aErr := io.ReadFull(a, aBuf)
		m, bErr := io.ReadFull(b, bBuf)
		if n != m || !bytes.Equal(aBuf[:n], bBuf[:m]) {
			return false, nil
		}
		if ended(aErr) && ended(bErr) {
			return true, nil
		}
		if err := errors.Join(aErr, bErr); err != nil {
			return false, err
		}
	}
}

func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
