package integration

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// atOnce is how soon what nobody waits for has ended, processes included.
const atOnce = time.Second

// TestGoneAtOnce: nothing of a build is left a second after its client was
// interrupted or killed, neither the client, nor its steps.
func TestGoneAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(b *bed) {
		dir := b.files(`
-- Dockerfile --
FROM BASE AS one
RUN echo started; trap '' INT TERM; sleep 1000; sleep 1000
FROM BASE AS two
RUN sleep 1001
FROM BASE
COPY --from=one / /one
COPY --from=two / /two
`)
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			c := b.begin("--no-cache", dir)
			begun := time.Now()
			c.signal(sig)
			if err := c.wait(endOfBuild); err == nil || errors.Is(err, errStillRunning) {
				b.Errorf("the client ended with %v", err)
			}
			b.must(testbed.Eventually(endOfBuild, b.noSteps))
			if took := time.Since(begun); took > atOnce {
				b.Errorf("the end by %v took %v", sig, took)
			}
		}
		b.idle()
	})
}

// TestFailureEndsTheOthers: a stage that fails ends the long ones beside it,
// except for what another build waits for.
func TestFailureEndsTheOthers(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	gate := testbed.Dir(t)
	const stages = `
-- Dockerfile --
FROM BASE AS ours
RUN echo ours started; sleep 4; echo ours > /ours
FROM BASE AS mine
RUN sleep 1000
FROM BASE AS fails
RUN echo fails started; sleep 1; exit 7
FROM scratch AS all
COPY --from=ours /ours /
COPY --from=mine / /
COPY --from=fails / /
FROM scratch AS one
COPY --from=ours /ours /
`
	dir := b.files(stages)
	stays := b.begin("--target", "one", "--output", filepath.Join(gate, "one"), dir)
	fails := b.begin("--target", "all", "--output", filepath.Join(gate, "all"), dir)
	b.must(testbed.Eventually(startOfStep, func() error {
		if !strings.Contains(fails.text(), "fails started\n") {
			return fmt.Errorf("the step that fails has not started:\n%s", fails.text())
		}
		return nil
	}))
	begun := time.Now()
	if err := fails.wait(endOfBuild); err == nil || errors.Is(err, errStillRunning) {
		t.Errorf("the build that fails: %v", err)
	}
	if took := time.Since(begun); took > time.Second+atOnce {
		t.Errorf("the failure took %v", took)
	}
	if !strings.Contains(fails.text(), "exit code: 7") {
		t.Errorf("the build that fails shows\n%s", fails.text())
	}
	if err := stays.wait(30 * time.Second); err != nil {
		t.Fatalf("the build that stays: %v\n%s", err, stays.text())
	}
	if got := b.tree(filepath.Join(gate, "one"))["ours"]; got != "ours\n" {
		t.Errorf("the build that stays has left %q", got)
	}
	if n := strings.Count(stays.text(), "ours started\n"); n < 1 {
		t.Errorf("the step has shown nothing:\n%s", stays.text())
	}
	b.must(testbed.Eventually(atOnce, b.noSteps))
	b.idle()
}
