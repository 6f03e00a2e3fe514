package fileop

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// buffer copies contents. It is used by one goroutine at a time.
type buffer struct {
	bytes []byte
	// readWrite: the kernel does not copy between these file systems.
	readWrite bool
}

// step bounds what is copied between two looks at the context, in bytes.
const step = 64 << 20

// copy copies src, which st describes, into the empty file dst. Holes stay
// holes.
func (b *buffer) copy(ctx context.Context, dst, src *os.File, st *unix.Stat_t) error {
	if st.Size == 0 {
		return nil
	}
	if st.Blocks*512 >= st.Size {
		return b.copyRange(ctx, dst, src, 0, st.Size)
	}
	if err := unix.Ftruncate(int(dst.Fd()), st.Size); err != nil {
		return err
	}
	for at := int64(0); at < st.Size; {
		start, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // only a hole is left
		}
		end := st.Size
		if err == nil {
			end, err = unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		}
		if err != nil { // the file system knows no holes
			start, end = at, st.Size
		}
		if err := b.copyRange(ctx, dst, src, start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// copyRange copies the bytes from one offset to another.
func (b *buffer) copyRange(ctx context.Context, dst, src *os.File, from, to int64) error {
	for in, out := from, from; from < to && !b.readWrite; from = in {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, int(min(to-from, step)), 0)
		switch {
		case err == unix.EINTR:
		case err != nil && from == in && cannotCopy(err):
			b.readWrite = true
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
	}
	if size := min(to-from, 256<<10); int64(len(b.bytes)) < size {
		b.bytes = make([]byte, size)
	}
	for from < to {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := src.ReadAt(b.bytes[:min(int64(len(b.bytes)), to-from)], from)
		if n == 0 {
			return err
		}
		if _, err := dst.WriteAt(b.bytes[:n], from); err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

func cannotCopy(err error) bool {
	switch err {
	case unix.ENOSYS, unix.EXDEV, unix.EPERM, unix.EIO, unix.EOPNOTSUPP, unix.EINVAL:
		return true
	}
	return false
}
