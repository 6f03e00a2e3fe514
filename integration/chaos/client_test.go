package chaos

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// client is a build that runs while the test goes on.
type client struct {
	cmd  *exec.Cmd
	out  output
	done chan error
}

// output may be read while it is written.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start starts a build.
func (b *bed) start(args ...string) *client {
	b.Helper()
	c := &client{cmd: b.daemon.Client("kiln", append([]string{"build", "--progress", "plain"}, args...)...), done: make(chan error, 1)}
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	b.must(c.cmd.Start())
	go func() { c.done <- c.cmd.Wait() }()
	b.Cleanup(func() { c.cmd.Process.Kill() })
	return c
}

// begin starts a build and waits until one of its steps says "started".
func (b *bed) begin(args ...string) *client {
	b.Helper()
	c := b.start(args...)
	b.must(testbed.Eventually(20*time.Second, func() error {
		if !strings.Contains(c.out.String(), " started\n") {
			return fmt.Errorf("the step has not started:\n%s", c.out.String())
		}
		return nil
	}))
	return c
}

// kill ends the client at once, and with it its build.
func (c *client) kill() {
	c.cmd.Process.Kill()
	<-c.done
}
