package chaos

import (
	"testing"
	"time"
)

// TestContainerdRestarts ends containerd under a daemon, while it is idle and
// while it builds, and starts it again. The build that ran may fail; those that
// follow work, and nothing is left at last.
func TestContainerdRestarts(t *testing.T) {
	t.Parallel()
	b := onHost(t)
	dir := b.context(steady())
	b.mustBuild("--output", b.TempDir(), dir)
	b.containerd.Restart(t)
	b.right(dir)
	for _, after := range []time.Duration{100 * time.Millisecond, 400 * time.Millisecond, 900 * time.Millisecond} {
		c := b.start("--no-cache", "--output", b.TempDir(), dir)
		time.Sleep(after)
		b.containerd.Restart(t)
		select {
		case <-c.done:
		case <-time.After(60 * time.Second):
			t.Fatalf("the build hangs:\n%s", c.out.String())
		}
		b.right(dir)
	}
	b.clean()
	if n := leased(b); n > 0 {
		b.Errorf("%d bytes are still leased", n)
	}
}
