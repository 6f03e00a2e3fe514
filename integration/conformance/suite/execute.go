package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// quitLimit is how long a process has to write its goroutines down.
const quitLimit = 5 * time.Second

// execute runs one process to its end, or until a test is over its limit, and
// returns what was seen of its tests.
func (r *Runner) execute(ctx context.Context, s Suite, tests []Test, temp, logName string) (*watch, error) {
	log, err := os.Create(logName)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	fmt.Fprintf(log, "# %s -test.run '%s'\n", s.Program, pattern(tests))
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()

	cmd := exec.Command(s.Program, "-test.v=test2json", "-test.count=1", "-test.timeout=0",
		fmt.Sprintf("-test.parallel=%d", r.Jobs), "-test.run", pattern(tests))
	cmd.Dir = s.Dir
	cmd.Env = append(slices.Clone(s.Env), "TMPDIR="+temp, fmt.Sprintf("GOMAXPROCS=%d", r.Jobs))
	cmd.Stdout, cmd.Stderr = write, write
	err = cmd.Start()
	write.Close()
	if err != nil {
		return nil, err
	}
	w := newWatch(tests)
	followed := make(chan error, 1)
	go func() { followed <- w.follow(read, log) }()
	r.await(ctx, cmd, w)

	// What the process started may hold the pipe's other end.
	if err := r.endDescendants(); err != nil {
		return nil, err
	}
	if err := read.SetReadDeadline(time.Now().Add(quitLimit)); err != nil {
		return nil, err
	}
	if err := <-followed; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, err
	}
	return w, nil
}

// await waits for the process, and ends it when a test is over its limit or the
// context is done.
func (r *Runner) await(ctx context.Context, cmd *exec.Cmd, w *watch) {
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // tests that failed are seen in what it wrote
		close(exited)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-exited:
			return
		case <-ctx.Done():
		case <-tick.C:
			if !w.markHung(r.limit) {
				continue
			}
		}
		cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-exited:
		case <-time.After(quitLimit):
			cmd.Process.Kill()
			<-exited
		}
		return
	}
}
