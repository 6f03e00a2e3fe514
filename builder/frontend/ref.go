package frontend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// maxFile bounds what ReadFile returns, in bytes; a gRPC message has to hold it.
const maxFile = 16 << 20

// Ref is a tree that may not have been made yet. It implements
// gwclient.Reference.
type Ref struct {
	id    string
	b     *Bridge
	def   *pb.Definition
	graph *graph.Graph
}

// ID names the reference in its build.
func (r *Ref) ID() string { return r.id }

// Definition is what the tree is made by.
func (r *Ref) Definition() *pb.Definition { return r.def }

// ToState implements gwclient.Reference.
func (r *Ref) ToState() (llb.State, error) { return toState(r.def) }

func toState(def *pb.Definition) (llb.State, error) {
	if def == nil || len(def.Def) == 0 {
		return llb.Scratch(), nil
	}
	op, err := llb.NewDefinitionOp(def)
	if err != nil {
		return llb.State{}, err
	}
	return llb.NewState(op), nil
}

// Layer makes the tree, and keeps it until the build has ended.
func (r *Ref) Layer(ctx context.Context) (*layer.Layer, error) {
	if r == nil {
		return nil, nil
	}
	res, err := r.b.cfg.Build.Result(ctx, r.graph)
	if err != nil {
		return nil, err
	}
	l, _ := res.(*layer.Layer)
	return l, nil
}

// Evaluate makes the tree.
func (r *Ref) Evaluate(ctx context.Context) error {
	_, err := r.Layer(ctx)
	return err
}

// ReadFile reads a regular file of the tree, or a range of it.
func (r *Ref) ReadFile(ctx context.Context, req gwclient.ReadRequest) (dt []byte, err error) {
	err = r.with(ctx, "open", req.Filename, func(p string) error {
		dt, err = readFile(p, req)
		return err
	})
	return dt, err
}

func readFile(p string, req gwclient.ReadRequest) ([]byte, error) {
	// Not to hang at a FIFO.
	f, err := os.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return nil, &os.PathError{Op: "read", Path: p, Err: syscall.EISDIR}
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file: %w", req.Filename, errdefs.ErrInvalidArgument)
	}
	length := int64(maxFile + 1)
	if rg := req.Range; rg != nil {
		if rg.Offset < 0 || rg.Length < 0 {
			return nil, fmt.Errorf("range %d+%d: %w", rg.Offset, rg.Length, errdefs.ErrInvalidArgument)
		}
		if _, err := f.Seek(int64(rg.Offset), io.SeekStart); err != nil {
			return nil, err
		}
		if rg.Length > 0 {
			length = min(length, int64(rg.Length))
		}
	}
	dt, err := io.ReadAll(io.LimitReader(f, length))
	if err == nil && len(dt) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes; read it in ranges: %w", req.Filename, maxFile, errdefs.ErrInvalidArgument)
	}
	return dt, err
}

// StatFile describes a file of the tree; a symbolic link isn't followed.
func (r *Ref) StatFile(ctx context.Context, req gwclient.StatRequest) (st *fstypes.Stat, err error) {
	dir, base := path.Split(path.Join("/", req.Path))
	err = r.with(ctx, "lstat", dir, func(p string) error {
		st, err = fsutil.Stat(filepath.Join(p, base))
		if st != nil {
			st.Path = base
		}
		return err
	})
	return st, rename(err, req.Path)
}

// ReadDir lists a directory of the tree.
func (r *Ref) ReadDir(ctx context.Context, req gwclient.ReadDirRequest) (list []*fstypes.Stat, err error) {
	err = r.with(ctx, "open", req.Path, func(p string) error {
		entries, err := os.ReadDir(p)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if req.IncludePattern != "" {
				ok, err := path.Match(req.IncludePattern, e.Name())
				if err != nil {
					return fmt.Errorf("pattern %q: %w: %w", req.IncludePattern, err, errdefs.ErrInvalidArgument)
				}
				if !ok {
					continue
				}
			}
			st, err := fsutil.Stat(filepath.Join(p, e.Name()))
			if err != nil {
				return err
			}
			st.Path = e.Name()
			list = append(list, st)
		}
		return nil
	})
	return list, err
}

// with calls f with the place of a path of the tree, whose symbolic links
// don't lead out of it.
func (r *Ref) with(ctx context.Context, op, name string, f func(p string) error) error {
	l, err := r.Layer(ctx)
	if err != nil {
		return err
	}
	dir, release, err := r.b.cfg.Layers.Mount(ctx, l)
	if err != nil {
		return err
	}
	defer release()
	p, err := securejoin.SecureJoin(dir, name)
	if err != nil {
		return &os.PathError{Op: op, Path: name, Err: err}
	}
	return rename(f(p), name)
}

// rename makes an error speak of the path that was asked for, and not of the
// host's.
func rename(err error, name string) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return &os.PathError{Op: pe.Op, Path: name, Err: pe.Err}
	}
	return err
}
