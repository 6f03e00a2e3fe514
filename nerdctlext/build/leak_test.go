package build_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"

	"github.com/kiln-build/kiln/nerdctlext/daemontest"
)

// inBuild counts the goroutines that run this package's code.
func inBuild() (count int, stacks string) {
	buffer := make([]byte, 1<<20)
	text := string(buffer[:runtime.Stack(buffer, true)])
	for stack := range strings.SplitSeq(text, "\n\n") {
		if strings.Contains(stack, "/nerdctlext/build.") {
			count++
			stacks += stack + "\n\n"
		}
	}
	return count, stacks
}

// Not parallel: it looks at all goroutines of the process.
func TestNothingRunsOnAfterABuild(t *testing.T) {
	daemon := daemontest.Start(t)
	fail := false
	daemon.Compute = func(ctx context.Context, _ session.Caller, _ *gatewaypb.SolveRequest) (*gatewaypb.Result, error) {
		if fail {
			return nil, errors.New("failed")
		}
		return &gatewaypb.Result{}, nil
	}
	c := newClient(t, daemon)
	for i := range 10 {
		fail = i%2 == 1
		ctx, cancel := context.WithCancel(t.Context())
		if i%5 == 4 {
			cancel()
		}
		c.Build(ctx, request())
		cancel()
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		count, stacks := inBuild()
		if count == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left:\n%s", count, stacks)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
