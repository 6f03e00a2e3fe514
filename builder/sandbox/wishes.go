package sandbox

import (
	"context"
	"syscall"
)

// steered is a process while it is waited for. Its methods are called by who waits.
type steered interface {
	// end ends the process, for its context has.
	end()
	send(syscall.Signal)
	resize(WinSize)
}

// wishes gives what the caller of a run wants of its process, one thing after the
// other, until stop is closed.
func wishes(ctx context.Context, io IO, stop <-chan struct{}) <-chan func(steered) {
	wanted := make(chan func(steered))
	go func() {
		done, signals, resize := ctx.Done(), io.Signal, io.Resize
		for {
			var wish func(steered)
			select {
			case <-done:
				done, wish = nil, steered.end
			case sig, ok := <-signals:
				if !ok {
					signals = nil // a closed channel has no more to say
					continue
				}
				wish = func(p steered) { p.send(sig) }
			case size, ok := <-resize:
				if !ok {
					resize = nil
					continue
				}
				wish = func(p steered) { p.resize(size) }
			case <-stop:
				return
			}
			select {
			case wanted <- wish:
			case <-stop:
				return
			}
		}
	}()
	return wanted
}
