package bridge

import (
	"io"
	"sync"
)

// maxInput is how much of its input a process can be behind before its client
// has to wait, in bytes.
const maxInput = 4 << 20

// input is what a client writes and a process reads. It keeps something, so
// that a process that doesn't read holds up neither the others of its stream
// nor its own signals.
type input struct {
	mu     sync.Mutex
	change *sync.Cond
	data   []byte
	ended  bool // nothing more comes
	closed bool // nobody reads any more
}

func newInput() *input {
	in := &input{}
	in.change = sync.NewCond(&in.mu)
	return in
}

// add waits until there is room, or nobody reads any more.
func (in *input) add(data []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.data) >= maxInput && !in.closed {
		in.change.Wait()
	}
	if !in.closed && !in.ended {
		in.data = append(in.data, data...)
		in.change.Broadcast()
	}
}

// end says that nothing more comes.
func (in *input) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
	in.change.Broadcast()
}

// Read implements io.Reader.
func (in *input) Read(buf []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.data) == 0 && !in.ended && !in.closed {
		in.change.Wait()
	}
	if in.closed {
		return 0, io.ErrClosedPipe
	}
	if len(in.data) == 0 {
		return 0, io.EOF
	}
	n := copy(buf, in.data)
	if in.data = in.data[n:]; len(in.data) == 0 {
		in.data = nil
	}
	in.change.Broadcast()
	return n, nil
}

// Close says that nobody reads any more, and drops what is there.
func (in *input) Close() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed, in.data = true, nil
	in.change.Broadcast()
	return nil
}
