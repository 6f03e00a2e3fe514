package pack

import (
	"io"
	"runtime"
	"sync/atomic"
)

// frames cuts a stream into frames of a fixed size, encodes several at a time,
// and writes them in order.
type frames struct {
	encode func(src []byte) []byte
	frame  []byte      // being filled
	free   chan []byte // to be filled again
	queue  chan chan []byte
	ended  chan struct{} // closed when all that was queued is written
	failed atomic.Pointer[error]
}

func newFrames(w io.Writer, size int, encode func(src []byte) []byte) *frames {
	parallel := runtime.GOMAXPROCS(0)
	f := &frames{
		encode: encode,
		frame:  make([]byte, 0, size),
		free:   make(chan []byte, parallel+2),
		queue:  make(chan chan []byte, parallel),
		ended:  make(chan struct{}),
	}
	go f.write(w)
	return f
}

// write writes encoded frames until the queue is closed.
func (f *frames) write(w io.Writer) {
	defer close(f.ended)
	for next := range f.queue {
		data := <-next
		if f.failed.Load() != nil {
			continue
		}
		if _, err := w.Write(data); err != nil {
			f.failed.Store(&err)
		}
	}
}

func (f *frames) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if err := f.failed.Load(); err != nil {
			return 0, *err
		}
		n := min(len(rest), cap(f.frame)-len(f.frame))
		f.frame = append(f.frame, rest[:n]...)
		rest = rest[n:]
		if len(f.frame) == cap(f.frame) {
			f.flush()
		}
	}
	return len(p), nil
}

// flush has the frame encoded beside the caller, and waits while enough others
// are under way.
func (f *frames) flush() {
	done := make(chan []byte, 1)
	f.queue <- done
	full := f.frame
	go func() {
		done <- f.encode(full)
		select {
		case f.free <- full[:0]:
		default:
		}
	}()
	select {
	case f.frame = <-f.free:
	default:
		f.frame = make([]byte, 0, cap(full))
	}
}

// Close writes what is left and returns the first error of the writing.
func (f *frames) Close() error {
	f.flush()
	close(f.queue)
	<-f.ended
	if err := f.failed.Load(); err != nil {
		return *err
	}
	return nil
}
