package status

import (
	"fmt"
	"sync"
	"time"
)

// write writes what is pending to the log, until the stream is closed.
func (s *Stream) write() {
	defer close(s.ended)
	defer s.written.end()
	for last := false; !last; {
		select {
		case <-s.wake:
			select {
			case <-time.After(interval):
			case <-s.stop:
			}
		case <-s.stop:
		}
		var b *batch
		b, last = s.take()
		s.written.add(s.writeBatch(b))
	}
}

// take returns what is pending, and whether more can follow.
func (s *Stream) take() (b *batch, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, s.pending = s.pending, newBatch()
	s.drained.Broadcast()
	return b, s.closing
}

// writeBatch returns how much the log has grown by. Nothing is written after
// a failure, since what is in the log then may end inside a frame.
func (s *Stream) writeBatch(b *batch) (int64, error) {
	if err := s.written.failure(); err != nil {
		return 0, err
	}
	var frames []byte
	for _, m := range b.messages() {
		var err error
		if frames, err = appendFrame(frames, m); err != nil {
			return 0, err
		}
	}
	if len(frames) == 0 {
		return 0, nil
	}
	if _, err := s.log.Write(frames); err != nil {
		return 0, fmt.Errorf("writing build status: %w", err)
	}
	return int64(len(frames)), nil
}

// fileState tells readers of a log how far it is written.
type fileState struct {
	mu      sync.Mutex
	size    int64
	err     error
	changed chan struct{} // closed when the rest changes; nil at the end
}

// state returns the size of the log's whole frames, and a channel that is
// closed when there is more, or nil if there will be no more.
func (f *fileState) state() (int64, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size, f.changed
}

func (f *fileState) add(n int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size += n
	f.err = err
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fileState) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.changed)
	f.changed = nil
}

func (f *fileState) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
