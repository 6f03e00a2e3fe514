package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// tree is a file tree that is not trusted. Symbolic links in it mean what they mean
// to a process whose root it is, and no path leads out of it.
type tree struct {
	dir  string
	root *os.Root
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open root: %w", err)
	}
	return &tree{dir: filepath.Clean(dir), root: root}, nil
}

func (t *tree) Close() error { return t.root.Close() }

// resolve follows the symbolic links of p, an absolute path in the tree, and
// returns where it leads: an absolute path in the tree without links. Its end may
// not exist.
func (t *tree) resolve(p string) (string, error) {
	full, err := securejoin.SecureJoin(t.dir, p)
	if err != nil {
		return "", fmt.Errorf("resolve %s in root: %w", p, err)
	}
	rel, err := filepath.Rel(t.dir, full)
	if err != nil {
		return "", fmt.Errorf("resolve %s in root: %w", p, err)
	}
	return path.Join("/", rel), nil
}

// local is a resolved path as os.Root wants it.
func local(resolved string) string {
	if resolved == "/" {
		return "."
	}
	return resolved[1:]
}

// exists tells whether there is something at a resolved path.
func (t *tree) exists(resolved string) (bool, error) {
	_, err := t.root.Lstat(local(resolved))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	return err == nil, err
}

// openRegular opens a regular file for reading, whatever it is that lies at p: a
// FIFO does not block and a device is not opened twice. An absent file is
// fs.ErrNotExist.
func (t *tree) openRegular(p string) (*os.File, error) {
	resolved, err := t.resolve(p)
	if err != nil {
		return nil, err
	}
	fi, err := t.root.Lstat(local(resolved))
	if err != nil {
		return nil, fmt.Errorf("%s in root: %w", p, cause(err))
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s in root is not a regular file", p)
	}
	f, err := t.root.OpenFile(local(resolved), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s in root: %w", p, cause(err))
	}
	return f, nil
}

// missing returns the resolved path's ancestors and itself, outermost first, as far
// as they do not exist.
func (t *tree) missing(resolved string) ([]string, error) {
	var out []string
	for p := resolved; p != "/"; p = path.Dir(p) {
		ok, err := t.exists(p)
		if err != nil {
			return nil, err
		}
		if ok {
			break
		}
		out = append([]string{p}, out...)
	}
	return out, nil
}

// mkdirAll makes the directories of a resolved path that are missing, mode 0755 and
// owned by o.
func (t *tree) mkdirAll(resolved string, o owner) error {
	dirs, err := t.missing(resolved)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := t.mkdir(dir); err != nil {
			return err
		}
		if err := t.root.Lchown(local(dir), int(o.uid), int(o.gid)); err != nil {
			return err
		}
	}
	return nil
}

// mkdir makes one directory, mode 0755 whatever the umask.
func (t *tree) mkdir(resolved string) error {
	if err := t.root.Mkdir(local(resolved), 0o755); err != nil {
		return err
	}
	return t.root.Chmod(local(resolved), 0o755)
}

// cause strips the operation and the path, which is one of the host's, off an error.
func cause(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// bounded is a reader that fails, instead of ending, after n bytes.
type bounded struct {
	r    io.Reader
	name string
	n    int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.n <= 0 {
		return 0, fmt.Errorf("%s in root is too large", b.name)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.n)])
	b.n -= int64(n)
	return n, err
}
