package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
)

// sender is a client that speaks the protocol in its own way.
type sender func(filesync.FileSync_DiffCopyServer) error

func (s sender) DiffCopy(stream filesync.FileSync_DiffCopyServer) error { return s(stream) }
func (s sender) TarStream(filesync.FileSync_TarStreamServer) error      { return errors.New("no") }
func (s sender) Register(srv *grpc.Server)                              { filesync.RegisterFileSyncServer(srv, s) }

func file(p string, size int64) *types.Stat {
	return &types.Stat{Path: p, Mode: 0o644, Size: size, ModTime: 1}
}

func directory(p string) *types.Stat {
	return &types.Stat{Path: p, Mode: uint32(fs.ModeDir | 0o755), ModTime: 1}
}

func symlink(p, to string) *types.Stat {
	return &types.Stat{Path: p, Mode: uint32(fs.ModeSymlink | 0o777), Linkname: to}
}

func hardlink(p, to string) *types.Stat {
	return &types.Stat{Path: p, Mode: 0o644, Linkname: to}
}

func announce(s filesync.FileSync_DiffCopyServer, stats ...*types.Stat) {
	for _, st := range stats {
		_ = s.Send(&types.Packet{Type: types.PACKET_STAT, Stat: st})
	}
	_ = s.Send(&types.Packet{Type: types.PACKET_STAT})
}

func data(id uint32, b string) *types.Packet {
	return &types.Packet{Type: types.PACKET_DATA, ID: id, Data: []byte(b)}
}

// obey answers requests with the contents, by id, until the end.
func obey(s filesync.FileSync_DiffCopyServer, contents map[uint32]string) error {
	for {
		p, err := s.Recv()
		if err != nil {
			return err
		}
		switch p.Type {
		case types.PACKET_REQ:
			if c := contents[p.ID]; c != "" {
				if err := s.Send(data(p.ID, c)); err != nil {
					return err
				}
			}
			if err := s.Send(data(p.ID, "")); err != nil {
				return err
			}
		case types.PACKET_FIN:
			return s.Send(&types.Packet{Type: types.PACKET_FIN})
		case types.PACKET_ERR:
			return errors.New(string(p.Data))
		}
	}
}

func TestHostileAnnouncements(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, tc := range map[string]struct {
		stats []*types.Stat
		want  string
	}{
		"parent":           {[]*types.Stat{file("../x", 1)}, `".."`},
		"parent below":     {[]*types.Stat{directory("a"), file("a/../../x", 1)}, `".."`},
		"absolute":         {[]*types.Stat{file("/etc/passwd", 1)}, `""`},
		"dot":              {[]*types.Stat{file("./x", 1)}, `"."`},
		"root":             {[]*types.Stat{directory(".")}, "empty"},
		"empty":            {[]*types.Stat{file("", 1)}, "empty"},
		"slash at the end": {[]*types.Stat{file("a/", 1)}, `""`},
		"double slash":     {[]*types.Stat{directory("a"), file("a//b", 1)}, `""`},
		"NUL":              {[]*types.Stat{file("a\x00b", 1)}, "NUL"},
		"long":             {[]*types.Stat{file(strings.Repeat("a/", 3000)+"b", 1)}, "6001 bytes"},
		"long name":        {[]*types.Stat{file(strings.Repeat("a", 256), 1)}, "aaaa"},
		"twice":            {[]*types.Stat{file("a", 1), file("a", 1)}, "comes after"},
		"unsorted":         {[]*types.Stat{file("b", 1), file("a", 1)}, "comes after"},
		"back":             {[]*types.Stat{directory("a"), file("b", 1), file("a/x", 1)}, "in no directory"},
		"orphan":           {[]*types.Stat{file("a/b", 1)}, "in no directory"},
		"below a file":     {[]*types.Stat{file("a", 1), file("a/b", 1)}, "in no directory"},
		"below a link":     {[]*types.Stat{symlink("a", "/etc"), file("a/passwd", 1)}, "in no directory"},
		"negative size":    {[]*types.Stat{file("a", -1)}, "-1 bytes"},
		"link to nothing":  {[]*types.Stat{hardlink("b", "a")}, "no file announced before"},
		"link to outside":  {[]*types.Stat{hardlink("b", "../../etc/passwd")}, "no file announced before"},
		"link to link":     {[]*types.Stat{symlink("a", "/etc/passwd"), hardlink("b", "a")}, "no file announced before"},
		"link to itself":   {[]*types.Stat{hardlink("b", "b")}, "no file announced before"},
		"link to dir":      {[]*types.Stat{directory("a"), hardlink("b", "a")}, "no file announced before"},
		"empty symlink":    {[]*types.Stat{symlink("a", "")}, "symbolic link"},
		"NUL in symlink":   {[]*types.Stat{symlink("a", "b\x00")}, "symbolic link"},
		"socket":           {[]*types.Stat{{Path: "a", Mode: uint32(fs.ModeSocket)}}, "unknown type"},
		"all types":        {[]*types.Stat{{Path: "a", Mode: 0xffffffff}}, "unknown type"},
		"irregular":        {[]*types.Stat{{Path: "a", Mode: uint32(fs.ModeIrregular)}}, "unknown type"},
		"device number":    {[]*types.Stat{{Path: "a", Mode: uint32(fs.ModeDevice), Devmajor: 1 << 40}}, "device"},
		"negative device":  {[]*types.Stat{{Path: "a", Mode: uint32(fs.ModeDevice), Devminor: -1}}, "device"},
		"attributes":       {[]*types.Stat{{Path: "a", Xattrs: map[string][]byte{"user.x": make([]byte, maxXattrs)}}}, "attributes"},
		"attribute name":   {[]*types.Stat{{Path: "a", Xattrs: map[string][]byte{"user." + strings.Repeat("x", 300): nil}}}, "attribute"},
	} {
		got, err := f.transfer(f.session(sender(func(s filesync.FileSync_DiffCopyServer) error {
			announce(s, tc.stats...)
			return obey(s, nil)
		})))
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "local source ctx: ") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	f.nothingLeft()
}

// nothingLeft checks that failed transfers have left no workspace and no lease.
func (f *fixture) nothingLeft() {
	f.t.Helper()
	if n := f.leasesLeft(); n != 0 {
		f.t.Errorf("%d leases are left", n)
	}
	ok(f.t, f.store.GC(f.t.Context()))
	left, err := filepath.Glob(filepath.Join(f.root, "local", "[^i]*"))
	if err != nil || len(left) != 0 {
		f.t.Errorf("files are left: %v, %v", left, err)
	}
}

func TestHostileData(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stats := []*types.Stat{directory("d"), file("d/a", 3), file("e", 3), hardlink("z", "e")}
	// request waits until the first file is asked for.
	request := func(s filesync.FileSync_DiffCopyServer) error {
		announce(s, stats...)
		_, err := s.Recv()
		return err
	}
	wait := func(s filesync.FileSync_DiffCopyServer) error {
		<-s.Context().Done()
		return nil
	}
	for name, tc := range map[string]struct {
		send sender
		want string
	}{
		"leaves at once": {func(filesync.FileSync_DiffCopyServer) error { return nil }, "ended the transfer early"},
		"leaves after the list": {func(s filesync.FileSync_DiffCopyServer) error {
			announce(s, stats...)
			return nil
		}, "ended the transfer early"},
		"fails": {func(filesync.FileSync_DiffCopyServer) error { return errors.New("permission denied") }, "permission denied"},
		"complains": {func(s filesync.FileSync_DiffCopyServer) error {
			_ = s.Send(&types.Packet{Type: types.PACKET_ERR, Data: []byte("disk is broken")})
			return wait(s)
		}, "disk is broken"},
		"data before the list": {func(s filesync.FileSync_DiffCopyServer) error {
			_ = s.Send(data(0, "x"))
			return wait(s)
		}, "unexpected packet"},
		"list after the list": {func(s filesync.FileSync_DiffCopyServer) error {
			_ = request(s)
			_ = s.Send(&types.Packet{Type: types.PACKET_STAT, Stat: file("zz", 1)})
			return wait(s)
		}, "unexpected packet"},
		"request": {func(s filesync.FileSync_DiffCopyServer) error {
			_ = request(s)
			_ = s.Send(&types.Packet{Type: types.PACKET_REQ})
			return wait(s)
		}, "unexpected packet"},
		"end before the end": {func(s filesync.FileSync_DiffCopyServer) error {
			_ = request(s)
			_ = s.Send(&types.Packet{Type: types.PACKET_FIN})
			return wait(s)
		}, "unexpected packet"},
		"wrong id": {func(s filesync.FileSync_DiffCopyServer) error {
			_ = request(s)
			_ = s.Send(data(1<<31, "x"))
			return wait(s)
		}, "wasn't asked for"},
		"id of a directory": {func(s filesync.FileSync_DiffCopyServer) error {
			_ = request(s)
			_ = s.Send(data(0, "x"))
			return wait(s)
		}, "wasn't asked for"},
		"huge packet": {func(s filesync.FileSync_DiffCopyServer) error {
			_ = request(s)
			_ = s.Send(data(1, strings.Repeat("x", maxData+1)))
			return wait(s)
		}, "more than"},
		"same file twice": {func(s filesync.FileSync_DiffCopyServer) error {
			_ = request(s)
			for range 3 {
				_ = s.Send(data(1, "x"))
				_ = s.Send(data(1, ""))
			}
			return wait(s)
		}, "content of entry 1"},
		"leaves in the middle": {func(s filesync.FileSync_DiffCopyServer) error {
			_ = request(s)
			return s.Send(data(1, "x"))
		}, "ended the transfer early"},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			_, err := f.transfer(f.session(tc.send))
			if err == nil || !strings.Contains(err.Error(), tc.want) || time.Since(begin) > 20*time.Second {
				t.Errorf("after %v: %v", time.Since(begin), err)
			}
		})
	}
	f.nothingLeft()
}

func TestMuteClientIsGivenUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.session(sender(func(s filesync.FileSync_DiffCopyServer) error {
		announce(s, file("a", 1))
		<-s.Context().Done()
		return nil
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := f.transferWith(ctx, s); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	f.nothingLeft()
}

// TestNotAsAnnounced: a file may change between the list and the transfer.
func TestNotAsAnnounced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	g, err := f.transfer(f.session(sender(func(s filesync.FileSync_DiffCopyServer) error {
		announce(s, file("gone", 5), file("grown", 3), file("huge", 1<<62), file("shrunk", 10))
		return obey(s, map[uint32]string{1: "longer", 2: "x", 3: "short"})
	})))
	ok(t, err)
	dir, release, err := f.layers.Mount(t.Context(), g.layer)
	ok(t, err)
	defer release()
	for name, want := range map[string]string{"gone": "", "grown": "longer", "huge": "x", "shrunk": "short"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	f.check(g, list(t, dir))
}

// TestAttributesOfTheKernel: what overlayfs and security modules go by is not
// for a client to say.
func TestAttributesOfTheKernel(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	st := directory("d")
	st.Xattrs = map[string][]byte{
		"trusted.overlay.opaque": []byte("y"), "user.overlay.opaque": []byte("y"), "trusted.overlay.redirect": []byte("/etc"),
		"security.selinux": []byte("x"), "system.posix_acl_access": []byte("x"), "user.": nil, "": nil, "user.mine": []byte("z"),
	}
	g, err := f.transfer(f.session(sender(func(s filesync.FileSync_DiffCopyServer) error {
		announce(s, st)
		return obey(s, nil)
	})))
	ok(t, err)
	dir, release, err := f.layers.Mount(t.Context(), g.layer)
	ok(t, err)
	defer release()
	if got := fmt.Sprint(xattrs(t, filepath.Join(dir, "d"))); got != "[user.mine]" {
		t.Errorf("attributes %v", got)
	}
}
