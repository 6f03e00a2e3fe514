// Package control serves BuildKit's Control API: it turns requests from the
// wire into requests to the builder, and what the builder reports into
// messages, records and errors of the wire.
package control

import (
	"context"
	"fmt"
	"sync"

	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/plugin/history"
	"github.com/kiln-build/kiln/plugin/status"
	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"google.golang.org/grpc"
)

// Builder is what builds. *builder.Builder is one.
type Builder interface {
	Build(ctx context.Context, req builder.Request, sink event.Sink) (*builder.Response, error)
	Workers() []builder.Worker
	DiskUsage(ctx context.Context, filter []string) ([]cache.Usage, error)
	Prune(ctx context.Context, req cache.PruneRequest, removed func(cache.Usage)) error
}

// Config is what a Server stands on. All of it but Ended is needed, and none is
// closed by the server.
type Config struct {
	Builder  Builder
	Sessions *session.Manager
	History  *history.History
	// Entitlements are those that builds may ask for.
	Entitlements []string
	Limits       status.Limits
	Version      Version
	// Ended is told of each build that ended, but for those that clients make
	// only to learn what the daemon can do.
	Ended func(*controlapi.BuildHistoryRecord)
}

// Version says what answers. Clients compare Version with releases of BuildKit
// to know what they can ask for.
type Version struct {
	Package, Version, Revision string
}

func (v Version) pb() *apitypes.BuildkitVersion {
	return &apitypes.BuildkitVersion{Package: v.Package, Version: v.Version, Revision: v.Revision}
}

// Server implements the Control service.
type Server struct {
	controlapi.UnimplementedControlServer
	cfg  Config
	runs *runs

	mu      sync.Mutex
	closing error          // why no build may begin
	builds  sync.WaitGroup // that run
	ctx     context.Context
	cancel  context.CancelCauseFunc
}

// New makes a server. Close it.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, runs: newRuns()}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// Register adds the server's service.
func (s *Server) Register(to grpc.ServiceRegistrar) { controlapi.RegisterControlServer(to, s) }

// Close cancels all builds and sessions and waits for the builds to end. No
// build begins afterwards.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closing == nil {
		s.closing = fmt.Errorf("the daemon is shutting down: %w", context.Canceled)
	}
	reason := s.closing
	s.mu.Unlock()
	s.cancel(reason)
	done := make(chan struct{})
	go func() {
		s.builds.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.runs.close()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for builds to end: %w", context.Cause(ctx))
	}
}

// enter counts a build until leave, whose context ends with the server.
func (s *Server) enter(ctx context.Context) (_ context.Context, leave func(), _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing != nil {
		return nil, nil, s.closing
	}
	s.builds.Add(1)
	ctx, end := s.withServer(ctx)
	return ctx, func() {
		end()
		s.builds.Done()
	}, nil
}

// withServer gives a context that ends with the server too.
func (s *Server) withServer(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}
