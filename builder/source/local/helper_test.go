package local

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/layer/checksum"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/embedded"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
)

// fixture is a source with its own stores.
type fixture struct {
	*Source
	t      testing.TB
	root   string
	store  *store.Store
	layers *layer.Store
	m      *session.Manager
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	st, err := embedded.Open(context.Background(), embedded.Config{Root: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	return newFixtureOn(t, st)
}

func newFixtureOn(t testing.TB, st *store.Store) *fixture {
	t.Helper()
	f := &fixture{t: t, root: t.TempDir(), m: session.NewManager(), store: st}
	ctx := context.Background()
	var err error
	if f.layers, err = layer.New(ctx, f.store, layer.Config{Root: filepath.Join(f.root, "layers")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.layers.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := f.store.Close(); err != nil {
			t.Error(err)
		}
	})
	f.restart()
	return f
}

// restart opens the source again, as a new process would.
func (f *fixture) restart() {
	f.t.Helper()
	s, err := New(context.Background(), Config{
		Root: filepath.Join(f.root, "local"), Store: f.store, Layers: f.layers, Sessions: f.m,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.Source = s
}

// client opens a session that offers the directory as "ctx".
func (f *fixture) client(dir string) string {
	f.t.Helper()
	dirFS, err := fsutil.NewFS(dir)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.session(filesync.NewFSSyncProvider(filesync.StaticDirSource{"ctx": dirFS}))
}

func (f *fixture) session(offer bksession.Attachable) string {
	c, _ := sessiontest.Open(f.t, f.m, "key", offer)
	return c.ID()
}

// sink counts what was transferred.
type sink struct{ bytes atomic.Int64 }

func (s *sink) Emit(e event.Event) {
	if st, ok := e.(*event.Status); ok && st.ID == "transferring ctx:" {
		s.bytes.Store(max(s.bytes.Load(), st.Current))
	}
}

// got is what a build sees of a transfer.
type got struct {
	key   schedule.Key
	layer *layer.Layer
	bytes int64
}

// transfer runs the op as a build does; attrs are pairs.
func (f *fixture) transfer(session string, attrs ...string) (got, error) {
	f.t.Helper()
	return f.transferWith(f.t.Context(), session, attrs...)
}

func (f *fixture) transferWith(ctx context.Context, session string, attrs ...string) (got, error) {
	f.t.Helper()
	src := &pb.SourceOp{Identifier: "local://ctx", Attrs: map[string]string{}}
	for i := 0; i+1 < len(attrs); i += 2 {
		src.Attrs[attrs[i]] = attrs[i+1]
	}
	op, err := f.Op(&graph.Step{Op: &pb.Op{Op: &pb.Op_Source{Source: src}}})
	if err != nil {
		return got{}, err
	}
	s := &sink{}
	job := schedule.Job{Sessions: func() []string { return []string{session} }, Progress: event.Progress{Sink: s}}
	key, err := op.Key(ctx, job)
	if err != nil {
		return got{}, err
	}
	ctx = f.store.Context(ctx)
	lease, err := f.store.Leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		f.t.Fatal(err)
	}
	out, err := op.Run(leases.WithLease(ctx, lease.ID), job, nil)
	if err != nil {
		return got{}, err
	}
	l, _ := out[0].(*layer.Layer)
	return got{key, l, s.bytes.Load()}, nil
}

// dropRecords lets go what runs of ops have kept.
func (f *fixture) dropRecords() {
	f.t.Helper()
	ctx := f.store.Context(f.t.Context())
	all, err := f.store.Leases.List(ctx, fmt.Sprintf("labels.%q!=%s", leaseLabel, f.shelf.id))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, l := range all {
		if strings.HasPrefix(l.ID, "kiln-") {
			continue // keeps mounts
		}
		if err := f.store.Leases.Delete(ctx, l); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) must(session string, attrs ...string) got {
	f.t.Helper()
	g, err := f.transfer(session, attrs...)
	if err != nil {
		f.t.Fatal(err)
	}
	return g
}

// list describes a directory, one line for each entry.
func list(t testing.TB, dir string) []string {
	t.Helper()
	var lines []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		line, err := describe(p, rel, inodes)
		lines = append(lines, line)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func describe(p, rel string, inodes map[uint64]string) (string, error) {
	fi, err := os.Lstat(p)
	if err != nil {
		return "", err
	}
	line := fmt.Sprintf("%s %v %d", rel, fi.Mode(), fi.ModTime().UnixNano())
	switch {
	case fi.Mode().IsRegular():
		b, err := os.ReadFile(p)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
		ino, links := inode(fi)
		if first, ok := inodes[ino]; ok && links > 1 {
			line += " = " + first
		}
		inodes[ino] = rel
	case fi.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(p)
		if err != nil {
			return "", err
		}
		line += " -> " + to
	}
	return line, nil
}

// check compares a transfer with the client's directory, and what is known of
// it with what is there.
func (f *fixture) check(g got, want []string) {
	f.t.Helper()
	dir, release, err := f.layers.Mount(f.t.Context(), g.layer)
	if err != nil {
		f.t.Fatal(err)
	}
	defer release()
	if have := list(f.t, dir); !slices.Equal(have, want) {
		f.t.Errorf("have:\n%s\nwant:\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, n := range names { // the root itself has no metadata that counts
		sel := []checksum.Selector{{Path: n.Name()}}
		told, err := f.layers.Digest(f.t.Context(), g.layer, sel)
		if err != nil {
			f.t.Fatal(err)
		}
		read, err := checksum.New(dir).Digest(f.t.Context(), sel)
		if err != nil {
			f.t.Fatal(err)
		}
		if told != read {
			f.t.Errorf("%s: known digest %s, that of the files %s", n.Name(), told, read)
		}
	}
}

// leasesLeft counts those of local sources.
func (f *fixture) leasesLeft() (n int) {
	all, err := f.store.Leases.List(f.store.Context(f.t.Context()))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, l := range all {
		if l.Labels[leaseLabel] != "" {
			n++
		}
	}
	return n
}
