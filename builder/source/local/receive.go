package local

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/layer/checksum"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
)

const (
	// maxOpen bounds the files that are being received.
	maxOpen = 64
	// writers is how many goroutines hash and write.
	writers = 4
	// maxData bounds one packet; senders take 32 KiB.
	maxData = 4 << 20
)

// stream is a transfer, in which the client is the sender of the fsutil
// protocol.
type stream struct {
	s       session.FileStream
	cancel  context.CancelFunc // ends s
	explain func(error) error  // of errors of s
	item    *event.Item
	bytes   int64
	done    atomic.Bool // all is here, and the client was told so
}

// farewell is how long a client has to take notice of a failure.
const farewell = time.Second

func (s *stream) recv() (*types.Packet, error) {
	p, err := s.s.Recv()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the client ended the transfer early: %w", io.ErrUnexpectedEOF)
	}
	if err != nil {
		return nil, s.explain(err)
	}
	s.bytes += int64(p.SizeVT())
	s.item.Set(s.bytes, 0)
	if p.Type == types.PACKET_ERR {
		return nil, fmt.Errorf("error from the client: %.1000s", p.Data)
	}
	return p, nil
}

// announcements reads what the client announces, to the end.
func (s *stream) announcements(add func(*types.Stat) error) error {
	for {
		p, err := s.recv()
		if err != nil {
			return err
		}
		if p.Type != types.PACKET_STAT {
			return unexpected(p)
		}
		if p.Stat == nil {
			return nil
		}
		if err := add(p.Stat); err != nil {
			return err
		}
	}
}

func unexpected(p *types.Packet) error {
	return fmt.Errorf("the client sends an unexpected packet (%v): %w", p.Type, errdefs.ErrInvalidArgument)
}

// finish says that all is here.
func (s *stream) finish() error {
	s.done.Store(true)
	err := s.s.Send(&types.Packet{Type: types.PACKET_FIN})
	if err != nil && !errors.Is(err, io.EOF) {
		return s.explain(err)
	}
	return nil // receiving says why a stream has ended
}

// untilEnd reads packets until the client says that it is done.
func (s *stream) untilEnd(data func(*types.Packet) error) error {
	for {
		p, err := s.recv()
		switch {
		case err != nil:
			return err
		case p.Type == types.PACKET_FIN && s.done.Load():
			return nil
		case p.Type == types.PACKET_DATA && data != nil:
			if err := data(p); err != nil {
				return err
			}
		default:
			return unexpected(p)
		}
	}
}

// fail tells the client why the transfer ends, and ends it.
func (s *stream) fail(err error) {
	_ = s.s.Send(&types.Packet{Type: types.PACKET_ERR, Data: []byte(err.Error())})
	_ = s.s.CloseSend()
	time.AfterFunc(farewell, s.cancel)
}

// receiver takes the contents of files. Files are asked for by one goroutine,
// their packets are read by another and written by several more.
type receiver struct {
	*stream
	queues [writers]chan *types.Packet
	slots  chan struct{} // one for each open file

	mu   sync.Mutex
	open map[uint32]*incoming
}

type incoming struct {
	f    *os.File
	e    *entry
	h    hash.Hash
	size int64
}

// receive runs ask, which calls want for files, until all those have come.
// want is for that goroutine alone. It ends with the client's agreement that all
// is done.
func (s *stream) receive(ctx context.Context, ask func(ctx context.Context, want func(*os.File, *entry) error) error) error {
	r := &receiver{stream: s, slots: make(chan struct{}, maxOpen), open: map[uint32]*incoming{}}
	defer r.abandon()
	g, ctx := errgroup.WithContext(ctx)
	for i := range r.queues {
		r.queues[i] = make(chan *types.Packet, 16)
		g.Go(func() error { return r.write(ctx, r.queues[i]) })
	}
	g.Go(func() error {
		defer r.endQueues()
		return s.untilEnd(func(p *types.Packet) error { return r.dispatch(ctx, p) })
	})
	g.Go(func() error {
		err := ask(ctx, func(f *os.File, e *entry) error { return r.want(ctx, f, e) })
		if err == nil {
			err = r.allDone(ctx)
		}
		if err != nil {
			s.fail(err) // which ends the reading, too
			return err
		}
		return s.finish()
	})
	return g.Wait()
}

// want asks for the content of a file, which is the receiver's from then on.
func (r *receiver) want(ctx context.Context, f *os.File, e *entry) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		f.Close()
		return context.Cause(ctx)
	}
	r.mu.Lock()
	r.open[e.id] = &incoming{f: f, e: e, h: checksum.NewHash(e.Entry)}
	r.mu.Unlock()
	err := r.s.Send(&types.Packet{Type: types.PACKET_REQ, ID: e.id})
	if errors.Is(err, io.EOF) {
		<-ctx.Done() // the reading side knows why
		return context.Cause(ctx)
	}
	return err
}

// allDone waits until no file is open.
func (r *receiver) allDone(ctx context.Context) error {
	for range maxOpen {
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (r *receiver) dispatch(ctx context.Context, p *types.Packet) error {
	if len(p.Data) > maxData {
		return fmt.Errorf("the client sends a packet of %d bytes, more than %d: %w", len(p.Data), maxData, errdefs.ErrInvalidArgument)
	}
	r.mu.Lock()
	_, ok := r.open[p.ID]
	r.mu.Unlock()
	if !ok {
		return fmt.Errorf("the client sends content of entry %d, which it wasn't asked for: %w", p.ID, errdefs.ErrInvalidArgument)
	}
	select {
	case r.queues[p.ID%writers] <- p:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *receiver) endQueues() {
	for _, q := range r.queues {
		close(q)
	}
}

func (r *receiver) write(ctx context.Context, queue <-chan *types.Packet) error {
	for {
		select {
		case p, ok := <-queue:
			if !ok {
				return nil
			}
			if err := r.take(p); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take writes a packet; one without data ends its file.
func (r *receiver) take(p *types.Packet) error {
	r.mu.Lock()
	in := r.open[p.ID]
	if in != nil && len(p.Data) == 0 {
		delete(r.open, p.ID)
	}
	r.mu.Unlock()
	if in == nil {
		return fmt.Errorf("the client sends content of entry %d, which has ended: %w", p.ID, errdefs.ErrInvalidArgument)
	}
	if len(p.Data) > 0 {
		n, err := in.f.Write(p.Data)
		in.h.Write(p.Data[:n])
		in.size += int64(n)
		return err
	}
	defer func() { <-r.slots }()
	return finishFile(in.f, in.e, in.h, in.size)
}

// abandon closes what was not received to the end.
func (r *receiver) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, in := range r.open {
		in.f.Close()
	}
}
