package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// manySteps is a Dockerfile whose result says which of its steps have run on
// which; the stages run at the same time.
func manySteps() string {
	var text strings.Builder
	text.WriteString("-- Dockerfile --\n")
	for stage := range 4 {
		fmt.Fprintf(&text, "FROM BASE AS s%d\n", stage)
		for step := range 5 {
			fmt.Fprintf(&text, "RUN echo %d >> /log%d && head -c 100000 /dev/urandom > /data%d\n", step, stage, step)
		}
	}
	text.WriteString("FROM scratch\n")
	for stage := range 4 {
		fmt.Fprintf(&text, "COPY --from=s%d /log%d /\n", stage, stage)
	}
	return text.String()
}

// TestChaos kills daemons and clients at random moments of a build. What is
// built at last is right, and nothing is left.
func TestChaos(t *testing.T) {
	t.Parallel()
	onBoth(t, func(b *bed) {
		dir := b.files(manySteps())
		for range 6 {
			cmd := b.daemon.Client("kiln", "build", "--no-cache", "--output", b.TempDir(), dir)
			b.must(cmd.Start())
			time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
			if rand.IntN(2) == 0 {
				cmd.Process.Signal(syscall.SIGKILL)
				cmd.Wait()
				continue
			}
			b.must(b.daemon.Kill())
			cmd.Wait() // fails unless it was faster
			b.daemon.Start(b.T)
		}
		b.must(testbed.Eventually(endOfBuild, b.noSteps))
		out := b.TempDir()
		b.build("--output", out, dir)
		for stage := range 4 {
			if got := b.tree(out)[fmt.Sprintf("log%d", stage)]; got != "0\n1\n2\n3\n4\n" {
				b.Errorf("stage %d has run %q", stage, got)
			}
		}
		b.idle()
	})
}

// TestManyClients builds for many clients at once. What they have in common
// runs once.
func TestManyClients(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	var all sync.WaitGroup
	var same [20]string
	for i := range same {
		all.Go(func() {
			dir, out := filepath.Join(b.TempDir(), "context"), b.TempDir()
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Error(err)
				return
			}
			text := fmt.Sprintf("FROM %s/busybox AS made\nRUN date +%%N > /same\nRUN echo %d > /own\nFROM scratch\nCOPY --from=made /own /same /\n", registry.Host, i/2)
			if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
				t.Error(err)
				return
			}
			if result := try(b.daemon.Client("kiln", "build", "--output", out, dir)); result.err != nil {
				t.Errorf("client %d: %v\n%s", i, result.err, result.stderr)
				return
			}
			own, err := os.ReadFile(filepath.Join(out, "own"))
			if err != nil || string(own) != fmt.Sprintln(i/2) {
				t.Errorf("client %d got %q, %v", i, own, err)
			}
			common, err := os.ReadFile(filepath.Join(out, "same"))
			if err != nil {
				t.Error(err)
			}
			same[i] = string(common)
		})
	}
	all.Wait()
	if made := slices.Compact(same[:]); len(made) != 1 {
		t.Errorf("the common step made %q", made)
	}
	b.idle()
}
