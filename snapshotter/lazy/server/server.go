// Package server is the process that serves the files of lazily shown layers,
// see package lazy. It ends when nothing is mounted and nobody is connected.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/fusemanager/api"
	"github.com/gofrs/flock"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/snapshotter/lazy"
)

// Config is what the process brings along.
type Config struct {
	// Root is that of [lazy.Config].
	Root string
	// Hosts makes, of [lazy.Settings.Registries], what finds the hosts of a
	// registry. Their authorizers are replaced.
	Hosts func(settings json.RawMessage) (docker.RegistryHosts, error)
}

// Server is the service. All calls have deadlines of their own.
type Server struct {
	api.UnimplementedStargzFuseManagerServiceServer
	cfg       Config
	authorize lazy.Authorize
	usage     usage

	mu       sync.Mutex
	settings string   // JSON that current is made of
	current  *backend // what mounts are made with; nil before Init
	mounts   map[string]*mountpoint
	dirs     map[string]*dirLock // by directory
	late     map[string]bool     // directories on which something may be mounted that came too late
}

// Run serves until ctx ends or nobody needs the process any more. What is
// mounted then stays, and answers no more.
func Run(ctx context.Context, cfg Config) error {
	lock := flock.New(filepath.Join(cfg.Root, "fuse.lock"))
	wait, cancel := context.WithTimeout(ctx, 5*time.Second) // an earlier one may be ending
	defer cancel()
	if ok, err := lock.TryLockContext(wait, 20*time.Millisecond); !ok {
		return fmt.Errorf("another process serves the lazy layers of %s: %w", cfg.Root, err)
	}
	defer lock.Unlock() //nolint:errcheck // the process ends
	if err := os.WriteFile(lock.Path(), fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
		return err
	}
	// What an earlier process fetched isn't found again.
	if err := os.RemoveAll(cacheDir(cfg.Root)); err != nil {
		return err
	}
	socket := lazy.Socket(cfg.Root)
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	s := &Server{
		cfg: cfg, authorize: lazy.AskBroker(cfg.Root),
		mounts: map[string]*mountpoint{}, dirs: map[string]*dirLock{}, late: map[string]bool{},
	}
	g := grpc.NewServer(grpc.StatsHandler(&s.usage))
	api.RegisterStargzFuseManagerServiceServer(g, s)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go s.watch(ctx, stop)
	go func() {
		<-ctx.Done()
		g.Stop()
	}()
	err = g.Serve(l)
	s.close()
	return err
}

// Status says that the process is there.
func (s *Server) Status(context.Context, *api.StatusRequest) (*api.StatusResponse, error) {
	return &api.StatusResponse{}, nil
}

// Init takes the settings, which count for what is mounted from then on.
func (s *Server) Init(ctx context.Context, req *api.InitRequest) (*api.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && s.settings == string(req.GetConfig()) {
		return &api.Response{}, nil
	}
	var settings lazy.Settings
	if err := json.Unmarshal(req.GetConfig(), &settings); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("settings: %w: %w", err, errdefs.ErrInvalidArgument))
	}
	if s.current != nil {
		s.current.retire()
	}
	b, err := newBackend(context.WithoutCancel(ctx), s.cfg, settings, s.authorize)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	s.current, s.settings = b, string(req.GetConfig())
	return &api.Response{}, nil
}

// watch bounds the cache, and ends the process when nobody needs it.
func (s *Server) watch(ctx context.Context, end func()) {
	idleSince, boundAt := time.Now(), time.Now()
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		if _, err := os.Lstat(lazy.Socket(s.cfg.Root)); errors.Is(err, os.ErrNotExist) {
			end() // the root was removed: nobody can ask for anything any more
			continue
		}
		s.mu.Lock()
		current, needed := s.current, len(s.mounts) > 0 || s.usage.connections() > 0
		s.mu.Unlock()
		if current != nil && !time.Now().Before(boundAt) {
			begin := time.Now()
			dir := cacheDir(s.cfg.Root)
			if err := errors.Join(forget(dir, rawLife), bound(dir, current.settings.CacheSize)); err != nil {
				log.G(ctx).WithError(err).Warn("the cache of lazy layers can't be bounded")
			}
			boundAt = time.Now().Add(boundRest * time.Since(begin))
		}
		if needed {
			idleSince = time.Now()
		}
		if time.Since(idleSince) > idleLimit {
			end()
		}
	}
}

// boundRest is how much longer than it takes to look through the cache it isn't
// looked through again.
const boundRest = 20

// idleLimit is longer than a restart of the daemon takes.
const idleLimit = 3 * time.Second

func (s *Server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		s.current.retire()
	}
	if len(s.mounts) == 0 {
		os.RemoveAll(cacheDir(s.cfg.Root))
	}
}
