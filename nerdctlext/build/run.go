package build

import (
	"context"
	"errors"
	"fmt"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/grpchijack"
)

// settle is how long one of the parallel calls of a build may outlive the others: a
// daemon whose bridge failed fails its solve by then, and one that has solved has no
// more progress to tell.
const settle = 5 * time.Second

// refused is how long to wait for a word about a build that failed before there was one:
// the daemon may not have taken it on, and then waits itself for it to appear.
const refused = 300 * time.Millisecond

// run is the four calls of one build, all open at once: the session (daemon to client),
// the solve that owns the build, the bridge that computes its result, the progress.
type run struct {
	control controlapi.ControlClient
	bridge  gatewaypb.LLBBridgeClient
	session *session.Session
	watch   *watcher
	warn    func(message string)
}

func (r run) do(ctx context.Context, solve *controlapi.SolveRequest, bridge *gatewaypb.SolveRequest) (*Result, error) {
	// The session and the progress outlast a cancelled build, whose end is to be seen.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	building, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := r.session.Run(life, grpchijack.Dialer(r.control)); err != nil {
			stop(fmt.Errorf("session: %w", err))
		}
	}()
	followed := make(chan error, 1)
	go func() { followed <- r.watch.follow(life, r.control, solve.Ref) }()

	var metadata map[string][]byte
	bridged := make(chan error, 1)
	solved := make(chan struct{})
	go func() {
		var err error
		metadata, err = drive(building, r.bridge, solve.Ref, bridge)
		if err != nil {
			// The daemon was told and ends the solve with this error and its details;
			// one that does not is left.
			select {
			case <-solved:
			case <-time.After(settle):
				stop(err)
			}
		}
		bridged <- err
	}()

	response, err := r.control.Solve(building, solve)
	close(solved)
	if err != nil {
		err = cause(ctx, building, err)
		stop(err)
	}
	bridgeErr := <-bridged

	closed := make(chan struct{})
	go func() {
		defer close(closed)
		r.session.Close()
	}()
	patience := settle
	if err != nil && !r.watch.begun.Load() {
		patience = refused
	}
	if followErr := r.watch.settle(followed, patience); followErr != nil && err == nil {
		r.warn(fmt.Sprintf("the progress of the build was lost: %v", followErr))
	}
	end()
	<-closed
	<-served
	if err != nil {
		return nil, fmt.Errorf("failed to solve: %w", err)
	}
	if bridgeErr != nil {
		return nil, fmt.Errorf("failed to solve: %w", bridgeErr)
	}
	return &Result{Ref: solve.Ref, Exported: response.GetExporterResponse(), Metadata: metadata}, nil
}

// cause returns why a solve failed: what ended it on this side, unless that was the
// caller's own cancellation, or else what the daemon said.
func cause(ctx, building context.Context, err error) error {
	own := context.Cause(building)
	if ctx.Err() == nil && own != nil && !errors.Is(own, context.Canceled) {
		return own
	}
	return err
}
