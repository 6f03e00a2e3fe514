package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
)

// dataChunk is how much of a file one packet carries.
const dataChunk = 32 << 10

var errStreamEnded = errors.New("the client ended the stream")

// packetStream is what both ends of a transfer speak through.
type packetStream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// dirSender is the sending side of the fsutil protocol: it walks the tree and
// announces each entry, and meanwhile sends the files that the other side asks
// for, by their place in the announcements.
type dirSender struct {
	stream   packetStream
	dir      fsutil.FS
	progress func(int64)

	sendMu sync.Mutex
	sent   int64

	mu     sync.Mutex
	files  map[uint32]string // announced and not asked for yet
	wanted chan wantedFile
}

type wantedFile struct {
	id   uint32
	path string
}

// sendDir returns once the other side has said that it has everything. The
// stream must end with ctx.
func sendDir(ctx context.Context, stream packetStream, dir fsutil.FS, progress func(int64)) error {
	s := &dirSender{
		stream: stream, dir: fsutil.WithHardlinkReset(dir), progress: progress,
		files: map[uint32]string{}, wanted: make(chan wantedFile, 128),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.tell(s.announce(ctx)) })
	g.Go(func() error {
		if err := s.tell(s.sendFiles(ctx)); err != nil {
			return err
		}
		for range s.wanted { // nobody waits for these
		}
		return nil
	})
	g.Go(func() error {
		defer close(s.wanted)
		return s.answer(ctx)
	})
	return g.Wait()
}

// tell passes an error of this side on to the other one. A stream that can't be
// sent on is no such error: receiving from it says what happened.
func (s *dirSender) tell(err error) error {
	if errors.Is(err, errStreamEnded) {
		return nil
	}
	if err != nil {
		_ = s.send(&types.Packet{Type: types.PACKET_ERR, Data: []byte(err.Error())})
	}
	return err
}

func (s *dirSender) send(p *types.Packet) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if err := s.stream.SendMsg(p); err != nil {
		if errors.Is(err, io.EOF) {
			return errStreamEnded
		}
		return err
	}
	s.sent += int64(len(p.Data))
	if s.progress != nil && len(p.Data) > 0 {
		s.progress(s.sent)
	}
	return nil
}

func (s *dirSender) announce(ctx context.Context) error {
	var id uint32
	err := s.dir.Walk(ctx, string(filepath.Separator), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := entry.Info()
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*types.Stat)
		if !ok {
			return fmt.Errorf("%s: no metadata to send", path)
		}
		st.Path, st.Linkname = filepath.ToSlash(st.Path), filepath.ToSlash(st.Linkname)
		if os.FileMode(st.Mode).IsRegular() {
			s.mu.Lock()
			s.files[id] = st.Path
			s.mu.Unlock()
		}
		id++
		return s.send(&types.Packet{Type: types.PACKET_STAT, Stat: st})
	})
	if err != nil {
		return err
	}
	return s.send(&types.Packet{Type: types.PACKET_STAT})
}

// answer reads what the other side asks for, until it has everything.
func (s *dirSender) answer(ctx context.Context) error {
	for {
		var p types.Packet
		if err := s.stream.RecvMsg(&p); err != nil {
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		switch p.Type {
		case types.PACKET_REQ:
			path, err := s.take(p.ID)
			if err != nil {
				return s.tell(err)
			}
			select {
			case s.wanted <- wantedFile{p.ID, path}:
			case <-ctx.Done():
				return ctx.Err()
			}
		case types.PACKET_FIN:
			return s.send(&types.Packet{Type: types.PACKET_FIN})
		case types.PACKET_ERR:
			return fmt.Errorf("the client can't take the files: %s", p.Data)
		default:
		}
	}
}

func (s *dirSender) take(id uint32) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, ok := s.files[id]
	if !ok {
		return "", fmt.Errorf("the client asked for file %d, which was not announced: %w", id, errdefs.ErrInvalidArgument)
	}
	delete(s.files, id)
	return path, nil
}

func (s *dirSender) sendFiles(ctx context.Context) error {
	buf := make([]byte, dataChunk)
	for {
		select {
		case f, ok := <-s.wanted:
			if !ok {
				return nil
			}
			if err := s.sendFile(f, buf); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *dirSender) sendFile(f wantedFile, buf []byte) error {
	r, err := s.dir.Open(f.path)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := s.send(&types.Packet{Type: types.PACKET_DATA, ID: f.id, Data: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return s.send(&types.Packet{Type: types.PACKET_DATA, ID: f.id})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
}
