package export

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/moby/buildkit/session/filesync"
	"golang.org/x/sys/unix"

	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
)

// badFile is how a client writes what it is sent.
type badFile func() error

func (b badFile) Write(p []byte) (int, error) { return len(p), b() }

func (badFile) Close() error { return nil }

func (b badFile) target() *filesync.SyncTarget {
	open := func(map[string]string) (io.WriteCloser, error) { return b, nil }
	return filesync.NewFSSyncTarget(filesync.WithFSSync(0, open))
}

// large has more than any buffer on the way takes.
func (e *env) large(t *testing.T) *layer.Layer {
	t.Helper()
	noise := make([]byte, 16<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7)
	}
	return e.layer(t, nil, map[string]string{"noise": string(noise), "f": "1"})
}

// tried runs an export whose client won't take the result.
func (e *env) tried(t *testing.T, ctx context.Context, typ, id string, l *layer.Layer) {
	t.Helper()
	x, err := e.Resolve(ctx, Target{Type: typ, Session: id, Attrs: parse("compression=uncompressed")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Export(ctx, e.job, single(l)); err == nil {
		t.Errorf("%s: no error", typ)
	}
	e.events.check(t)
	all, err := e.st.Leases.List(e.ctx, `labels."kiln.build/export"==true`)
	if err != nil || len(all) != 0 {
		t.Errorf("%s: leases stay: %v, %v", typ, all, err)
	}
}

var outputTypes = []string{"oci", "docker", "tar"}

func TestClientCantWrite(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.large(t)
	id := e.client(t, badFile(func() error { return unix.ENOSPC }).target())
	for _, typ := range outputTypes {
		e.tried(t, context.Background(), typ, id, l)
	}
}

func TestClientStalls(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.large(t)
	for _, typ := range outputTypes {
		ctx, cancel := context.WithCancel(context.Background())
		end := make(chan struct{})
		id := e.client(t, badFile(func() error {
			cancel()
			<-end
			return errors.New("too late")
		}).target())
		began := time.Now()
		e.tried(t, ctx, typ, id, l)
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("%s: took %v to end", typ, d)
		}
		close(end)
	}
}

func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := e.large(t)
	for _, typ := range outputTypes {
		gone := make(chan struct{}, 1000)
		c, stop := sessiontest.Open(t, e.cfg.Sessions, "", badFile(func() error {
			gone <- struct{}{}
			return nil
		}).target())
		go func() {
			<-gone
			stop()
		}()
		e.tried(t, context.Background(), typ, c.ID(), l)
	}
}
