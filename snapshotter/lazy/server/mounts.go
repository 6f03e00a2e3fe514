package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/fusemanager/api"

	"github.com/kiln-build/kiln/snapshotter/lazy"
)

// mountpoint is a directory on which a layer is shown, and what shows it.
type mountpoint struct {
	backend *backend
}

// dirLock is a lock of a directory, as long as somebody has it or waits for it.
type dirLock struct {
	sync.Mutex
	users int // guarded by Server.mu
}

// lockDir has calls for one directory come one after the other.
func (s *Server) lockDir(dir string) (unlock func()) {
	s.mu.Lock()
	l := s.dirs[dir]
	if l == nil {
		l = &dirLock{}
		s.dirs[dir] = l
	}
	l.users++
	s.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.dirs, dir)
		}
	}
}

// Mount shows a layer on a directory, once.
func (s *Server) Mount(ctx context.Context, req *api.MountRequest) (*api.Response, error) {
	defer s.lockDir(req.GetMountpoint())()
	if err := s.show(ctx, req.GetMountpoint(), req.GetLabels()); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.Response{}, nil
}

// Check shows a layer anew that isn't shown any more, else makes sure that what
// wasn't fetched yet can be.
func (s *Server) Check(ctx context.Context, req *api.CheckRequest) (*api.Response, error) {
	defer s.lockDir(req.GetMountpoint())()
	dir, labels := req.GetMountpoint(), req.GetLabels()
	s.mu.Lock()
	m := s.mounts[dir]
	s.mu.Unlock()
	var err error
	if m == nil || !alive(ctx, dir) {
		err = s.show(ctx, dir, labels)
	} else {
		ctx, cancel := context.WithTimeout(ctx, m.backend.settings.Deadline())
		defer cancel()
		err = within(ctx, func(ctx context.Context) error { return m.backend.fs.Check(ctx, dir, labels) })
	}
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.Response{}, nil
}

// Unmount takes a layer off a directory.
func (s *Server) Unmount(ctx context.Context, req *api.UnmountRequest) (*api.Response, error) {
	defer s.lockDir(req.GetMountpoint())()
	if err := s.hide(ctx, req.GetMountpoint()); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.Response{}, nil
}

func (s *Server) show(ctx context.Context, dir string, labels map[string]string) error {
	s.mu.Lock()
	b, shown, late := s.current, s.mounts[dir] != nil, s.late[dir]
	s.mu.Unlock()
	if b == nil {
		return fmt.Errorf("the process has no settings yet: %w", errdefs.ErrUnavailable)
	}
	if late {
		return fmt.Errorf("an earlier attempt to show the layer hasn't ended, the registry may be down: %w", errdefs.ErrUnavailable)
	}
	mounted, err := lazy.Mounted(dir)
	if err != nil {
		return err
	}
	if shown && mounted && alive(ctx, dir) {
		return nil
	}
	if shown || mounted {
		if err := s.hide(ctx, dir); err != nil {
			return err
		}
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, b.settings.Deadline())
	defer cancel()
	ended, err := b.mount(ctx, dir, labels)
	if ended != nil {
		s.wait(dir, ended)
	}
	log.G(ctx).WithError(err).WithField("dir", dir).Debugf("layer shown in %s", time.Since(begin))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.mounts[dir] = &mountpoint{backend: b}
	s.mu.Unlock()
	return nil
}

// wait lets nothing be shown on a directory until ended is closed: what comes late
// is taken off it again.
func (s *Server) wait(dir string, ended <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late[dir] = true
	go func() {
		<-ended
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.late, dir)
	}()
}

// hide takes off whatever is on dir.
func (s *Server) hide(ctx context.Context, dir string) error {
	s.mu.Lock()
	m := s.mounts[dir]
	delete(s.mounts, dir)
	s.mu.Unlock()
	if m != nil {
		if err := m.backend.fs.Unmount(ctx, dir); err != nil {
			log.G(ctx).WithError(err).WithField("dir", dir).Debug("detach instead")
		}
	}
	return lazy.Detach(dir)
}

// alive tells whether what is mounted on dir answers.
func alive(ctx context.Context, dir string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return within(ctx, func(context.Context) error {
		if mounted, err := lazy.Mounted(dir); !mounted {
			return errors.Join(errdefs.ErrNotFound, err)
		}
		_, err := os.Lstat(filepath.Join(dir, "."))
		return err
	}) == nil
}

// within calls a function that may not heed its context, and returns when that
// ends. The function's resources are its own.
func within(ctx context.Context, do func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("it takes too long: %w", context.Cause(ctx))
	}
}
