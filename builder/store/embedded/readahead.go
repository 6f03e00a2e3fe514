package embedded

import "io"

// What is read ahead: some blocks of a size that passes through the caches.
const (
	aheadBlock  = 256 << 10
	aheadBlocks = 8
)

// readAhead reads from a slow reader in a goroutine of its own.
type readAhead struct {
	full  chan block
	empty chan []byte
	stop  chan struct{}
	ended chan struct{}
	block block  // being read from
	rest  []byte // of it
}

type block struct {
	buf []byte
	n   int   // bytes in buf
	err error // after these
}

func newReadAhead(r io.Reader) *readAhead {
	a := &readAhead{
		full:  make(chan block, aheadBlocks),
		empty: make(chan []byte, aheadBlocks),
		stop:  make(chan struct{}),
		ended: make(chan struct{}),
	}
	for range aheadBlocks {
		a.empty <- make([]byte, aheadBlock)
	}
	go a.run(r)
	return a
}

func (a *readAhead) run(r io.Reader) {
	defer close(a.ended)
	for {
		var buf []byte
		select {
		case buf = <-a.empty:
		case <-a.stop:
			return
		}
		n, err := io.ReadFull(r, buf)
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		a.full <- block{buf, n, err} // has room for all blocks
		if err != nil {
			return
		}
	}
}

func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.block.err != nil {
			return 0, a.block.err
		}
		if a.block.buf != nil {
			a.empty <- a.block.buf
		}
		a.block = <-a.full
		a.rest = a.block.buf[:a.block.n]
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the goroutine; it waits for a read that is under way.
func (a *readAhead) Close() error {
	close(a.stop)
	<-a.ended
	return nil
}
