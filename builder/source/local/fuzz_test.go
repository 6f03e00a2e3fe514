package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/layer/checksum"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/tonistiigi/fsutil/types"
)

// script is a client whose every move is read from bytes.
type script struct {
	session.FileStream // nil; the methods that are used are below
	ctx                context.Context

	mu     sync.Mutex
	moves  []byte
	listed bool
	asked  []uint32
	fin    bool
	wake   chan struct{}
}

func (s *script) next() byte {
	if len(s.moves) == 0 {
		return 0
	}
	b := s.moves[0]
	s.moves = s.moves[1:]
	return b
}

func (s *script) CloseSend() error { return nil }

func (s *script) Send(p *types.Packet) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch p.Type {
	case types.PACKET_REQ:
		s.asked = append(s.asked, p.ID)
	case types.PACKET_FIN, types.PACKET_ERR:
		s.fin = true
	default:
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

func (s *script) Recv() (*types.Packet, error) {
	for {
		if p := s.move(); p != nil {
			return p, nil
		}
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return nil, s.ctx.Err()
		}
	}
}

// move gives the next packet, nil if there is nothing to answer yet.
func (s *script) move() *types.Packet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.listed {
		b := s.next()
		if b == 0 {
			s.listed = true
			return &types.Packet{Type: types.PACKET_STAT}
		}
		return &types.Packet{Type: types.PACKET_STAT, Stat: s.stat(b)}
	}
	if len(s.asked) == 0 {
		if s.fin {
			return &types.Packet{Type: types.PACKET_FIN}
		}
		return nil
	}
	switch b := s.next(); {
	case b < 100: // as it should be
		id := s.asked[0]
		s.asked = s.asked[1:]
		return &types.Packet{Type: types.PACKET_DATA, ID: id}
	case b < 240:
		return &types.Packet{Type: types.PACKET_DATA, ID: s.asked[0], Data: []byte{b, b}}
	case b < 250:
		return &types.Packet{Type: types.PACKET_DATA, ID: uint32(b - 240), Data: s.moves[:min(1, len(s.moves))]}
	default:
		return &types.Packet{Type: types.Packet_PacketType(b - 250)}
	}
}

func (s *script) stat(b byte) *types.Stat {
	names := []string{"a", "b", "c", "d", "a.", "..", ".", "", "/", "\x00"}
	var parts []string
	for range 1 + int(b>>6) {
		i := int(s.next())
		if i >= len(names) { // mostly sane ones
			i %= 5
		}
		parts = append(parts, names[i])
	}
	st := &types.Stat{Path: strings.Join(parts, "/"), Mode: 0o644, Size: int64(s.next() % 8), ModTime: int64(s.next())}
	switch b & 7 {
	case 0, 1, 2:
		st.Mode = uint32(fs.ModeDir | 0o755)
	case 3:
		st.Mode, st.Linkname = uint32(fs.ModeSymlink|0o777), []string{"..", "/etc", "../../canary", "a"}[s.next()%4]
	case 4:
		st.Linkname = []string{"a", "b", "../canary", "a/b"}[s.next()%4]
	case 5:
		st.Mode = uint32(s.next())<<24 | uint32(s.next())
	}
	return st
}

// FuzzReceive lets clients do what they like, twice, so that there is a
// previous tree the second time. Whatever it is, nothing outside the directory
// changes, and what is believed of the tree is true.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x06\x00\x05\x01\x06\x01\x05\x01\x00\x70\x71\x01\x72\x02"), []byte("\x06\x00\x05\x02\x00"))
	f.Add([]byte("\x01\x00\x05\x01\x46\x00\x01\x05\x01\x04\x02\x05\x01\x01\x00"), []byte("\x03\x00\x01\x01\x01\x46\x00\x01\x01\x01\x00"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		outer := t.TempDir()
		canary := filepath.Join(outer, "canary")
		ok(t, os.WriteFile(canary, []byte("alive"), 0o600))
		dir := filepath.Join(outer, "tree")
		ok(t, os.Mkdir(dir, 0o755))
		previous := &index{}
		for _, moves := range [][]byte{first, second} {
			entries, err := play(dir, moves, previous)
			if err != nil {
				break
			}
			previous = &index{entries: entries}
			verify(t, dir, previous)
		}
		if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
			t.Fatalf("the canary is dead: %q, %v", b, err)
		}
		if names, _ := os.ReadDir(outer); len(names) != 2 {
			t.Fatalf("outside: %v", names)
		}
	})
}

// play makes one transfer into the directory, which is as previous says.
func play(dir string, moves []byte, previous *index) ([]entry, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	st := &stream{
		s:      &script{ctx: ctx, moves: moves, wake: make(chan struct{}, 1)},
		cancel: cancel, explain: func(err error) error { return err }, item: event.Progress{}.Begin("x"),
	}
	c := &catalog{}
	err := st.announcements(func(s *types.Stat) error {
		_, err := c.add(s)
		return err
	})
	if err != nil {
		return nil, err
	}
	recall(c.entries, previous)
	tr, err := openTree(dir)
	if err != nil {
		return nil, err
	}
	defer tr.close()
	a := &applier{tree: tr, touched: map[string]bool{}}
	steps := plan(c.entries, previous)
	err = st.receive(ctx, func(ctx context.Context, want func(*os.File, *entry) error) error {
		a.want = want
		return a.apply(ctx, steps)
	})
	if err != nil {
		return nil, err
	}
	return c.entries, a.finish(c.entries)
}

func verify(t *testing.T, dir string, x *index) {
	t.Helper()
	decoded, err := decodeIndex(x.encode())
	ok(t, err)
	if !slices.EqualFunc(decoded.entries, x.entries, func(a, b entry) bool {
		return a.Path == b.Path && a.Digest == b.Digest && a.Print == b.Print && a.ModTime == b.ModTime && a.Mode == b.Mode
	}) {
		t.Fatal("the index isn't what was encoded")
	}
	tree, _, err := x.checksums(t.Context())
	ok(t, err)
	names, err := os.ReadDir(dir)
	ok(t, err)
	for _, n := range names {
		sel := []checksum.Selector{{Path: n.Name()}}
		told, err := tree.Digest(t.Context(), sel)
		ok(t, err)
		if read, err := checksum.New(dir).Digest(t.Context(), sel); err != nil || read != told {
			t.Fatalf("%s: told %s, is %s, %v", n.Name(), told, read, err)
		}
	}
}

func FuzzDecodeIndex(f *testing.F) {
	f.Add([]byte(indexMagic))
	x := &index{entries: []entry{{Entry: checksum.Entry{Path: "a", Mode: 0o644, Xattrs: map[string][]byte{"k": nil}}}}}
	f.Add(x.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := decodeIndex(b); err != nil && !errors.Is(err, errIndex) || err == nil && x == nil {
			t.Fatal(x, err)
		}
	})
}
