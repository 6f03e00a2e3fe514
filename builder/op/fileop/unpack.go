package fileop

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"

	"golang.org/x/sys/unix"
)

// unpack extracts the source into the destination directory, which is made
// where it is missing, if it is a tar archive, compressed or not. Otherwise it
// does nothing and done is false.
func (c *copier) unpack(ctx context.Context, from, to string) (done bool, err error) {
	p, err := c.src.resolve(from)
	if err != nil {
		return false, err
	}
	st, err := c.src.stat(p)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false, nil // copying it will say what is wrong
	}
	f, err := c.src.openAt(p, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if !isArchive(f) {
		return false, nil
	}
	at, err := c.dst.resolve(to)
	if err != nil {
		return false, err
	}
	if _, err := c.dst.mkdirAll(at, newDir{perm: 0o755, owner: c.owner, times: c.times}); err != nil {
		return false, err
	}
	dir, err := c.dst.openDir(at)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, pathError("seek", p, errno(err))
	}
	x := &extractor{ctx: ctx, into: &Tree{root: dir}, owner: c.owner}
	if err := x.extract(f); err != nil {
		return false, fmt.Errorf("unpacking %s: %w", path.Join("/", p), err)
	}
	return true, nil
}

func isArchive(r io.Reader) bool {
	d, err := decompress(r)
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = tar.NewReader(d).Next()
	return err == nil
}
