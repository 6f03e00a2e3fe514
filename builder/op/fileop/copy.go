package fileop

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/kiln-build/kiln/builder/layer/checksum"
	"github.com/moby/buildkit/solver/pb"
	mode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"
)

// Copy copies from src into dst. Extended attributes that can't be set are
// left out with a warning in the log.
func Copy(ctx context.Context, src, dst *Tree, a *pb.FileActionCopy, owner *Owner) error {
	c, err := newCopier(src, dst, a, owner)
	if err != nil {
		return err
	}
	from, to := cleanPath(a.GetSrc()), cleanPath(a.GetDest())
	if !a.GetCreateDestPath() {
		if err := dst.requireParent(to); err != nil {
			return fmt.Errorf("failed to stat %s: %w", a.GetDest(), err)
		}
	}
	sources := []string{from}
	if a.GetAllowWildcard() {
		if sources, err = src.glob(from, c.resolveSource); err != nil {
			return err
		}
		if len(sources) == 0 && !a.GetAllowEmptyWildcard() {
			return fmt.Errorf("%s not found", from)
		}
	}
	for _, s := range sources {
		if a.GetAttemptUnpackDockerCompatibility() {
			if done, err := c.unpack(ctx, s, to); err != nil {
				return err
			} else if done {
				continue
			}
		}
		if err := c.copy(ctx, s, to); err != nil {
			return err
		}
	}
	return nil
}

// cleanPath cleans a path but keeps the "/" or "/." at its end, which say that
// it is a directory.
func cleanPath(p string) string {
	clean := path.Join("/", p)
	switch {
	case clean == "/":
		if strings.HasSuffix(p, "/.") {
			return "/."
		}
		return "/"
	case strings.HasSuffix(p, "/."):
		return clean + "/."
	case strings.HasSuffix(p, "/"):
		return clean + "/"
	}
	return clean
}

// requireParent fails if the directory of p does not exist.
func (t *Tree) requireParent(p string) error {
	at, err := t.resolve(p)
	if err != nil || at == "" {
		return err
	}
	_, err = t.stat(parentPath(at))
	return err
}

// copier does one copy action.
type copier struct {
	src, dst *Tree
	action   *pb.FileActionCopy
	owner    *Owner
	times    times
	chmod    func(mode uint32) uint32
	filter   *checksum.Filter
}

func newCopier(src, dst *Tree, a *pb.FileActionCopy, owner *Owner) (*copier, error) {
	c := &copier{src: src, dst: dst, action: a, owner: owner, times: timesOf(a.GetTimestamp())}
	var err error
	if c.filter, err = checksum.NewFilter(a.GetIncludePatterns(), a.GetExcludePatterns()); err != nil {
		return nil, err
	}
	c.chmod, err = chmodOf(a)
	return c, err
}

// chmodOf gives the permissions that a copy of a file of some mode gets.
func chmodOf(a *pb.FileActionCopy) (func(uint32) uint32, error) {
	switch {
	case a.GetModeStr() != "":
		set, err := mode.ParseWithUmask(a.GetModeStr(), 0)
		if err != nil {
			return nil, fmt.Errorf("invalid mode %q: %w", a.GetModeStr(), err)
		}
		return func(m uint32) uint32 { return unixMode(set.Apply(fileMode(m))) }, nil
	case a.GetMode() != -1:
		return func(uint32) uint32 { return uint32(a.GetMode()) & permissions }, nil
	default:
		return func(m uint32) uint32 { return m & permissions }, nil
	}
}

// newDir is what directories get that lead to the destination.
func (c *copier) newDir() newDir {
	d := newDir{perm: 0o755, owner: c.owner, times: c.times}
	if c.action.GetModeStr() == "" && c.action.GetMode() != -1 {
		d.perm = uint32(c.action.GetMode()) & 0o777
	}
	return d
}

// copy copies one source. Both paths are as from cleanPath.
func (c *copier) copy(ctx context.Context, from, to string) error {
	// The directories that are made for the copy get their times again when
	// it is done.
	var made []string
	defer func() {
		for i := len(made) - 1; i >= 0; i-- {
			c.touch(made[i])
		}
	}()
	mkdirAll := func(p string) error {
		m, err := c.dst.mkdirAll(p, c.newDir())
		made = append(made, m...)
		return err
	}

	dir := to
	if d, name := path.Split(to); name != "" && name != "." {
		dir = d
	}
	at, err := c.dst.resolve(dir)
	if err != nil {
		return err
	}
	if err := mkdirAll(at); err != nil {
		return err
	}
	source, st, err := c.source(from)
	if err != nil {
		return err
	}
	target, err := c.dst.resolve(to)
	if err != nil {
		return err
	}
	target, parent, err := c.target(st, from, target)
	if err != nil {
		return err
	}
	if err := mkdirAll(parent); err != nil {
		return err
	}
	return c.copyTree(ctx, source, target)
}

// source finds what is copied.
func (c *copier) source(from string) (string, unix.Stat_t, error) {
	p, err := c.resolveSource(from)
	if err != nil {
		return "", unix.Stat_t{}, err
	}
	st, err := c.src.stat(p)
	return p, st, err
}

// resolveSource follows the last element of a path only if the action says so.
func (c *copier) resolveSource(p string) (string, error) {
	if c.action.GetFollowSymlink() {
		return c.src.resolve(p)
	}
	return c.src.resolveParent(p)
}

// target decides what the copy of from, which st describes, is to be if the
// destination is at, and which directory has to exist for it.
func (c *copier) target(st unix.Stat_t, from, at string) (target, parent string, err error) {
	old, err := c.dst.stat(at)
	exists := err == nil
	if err != nil && !isNotFound(err) {
		return "", "", err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	intoDir := exists && old.Mode&unix.S_IFMT == unix.S_IFDIR
	contents := isDir && c.action.GetDirCopyContents()
	if isDir && !contents && exists || !isDir && intoDir {
		// "dir/." has no name that could be added.
		at = strings.TrimPrefix(path.Join("/", at, path.Base(from)), "/")
	}
	if contents && !exists {
		return at, at, nil
	}
	return at, parentPath(at), nil
}

// touch sets the times of a directory that was made for the copy.
func (c *copier) touch(p string) {
	if dir, name, err := c.dst.parent(p); err == nil {
		_ = c.times.setAt(int(dir.Fd()), name)
		dir.Close()
	}
}
