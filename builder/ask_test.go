package builder_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/export"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session/exporter"
	"github.com/moby/buildkit/session/exporter/exporterprovider"
	"github.com/moby/buildkit/session/filesync"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sink is a file of a client.
type sink struct{ bytes.Buffer }

func (*sink) Close() error { return nil }

// TestSessionChooses: a client that looked at the result says what it wants, and
// is told what came of it.
func TestSessionChooses(t *testing.T) {
	var sessions *session.Manager
	b := open(t, func(c *builder.Config) { sessions = c.Sessions })
	var got sink
	var told map[string]string
	target := filesync.NewFSSyncTarget()
	choose := exporterprovider.New(func(ctx context.Context, md map[string][]byte, refs []string) ([]*exporter.ExporterRequest, error) {
		bridge, err := b.Bridge(ctx, "choose")
		if err != nil || len(refs) != 1 || string(md["frontend.note"]) != "for you" {
			t.Errorf("asked for %v of %v, %v", refs, md, err)
			return nil, err
		}
		ref, err := bridge.Ref(refs[0])
		if err != nil {
			return nil, err
		}
		if dt, err := ref.ReadFile(ctx, gwclient.ReadRequest{Filename: "/a/hello"}); err != nil || string(dt) != "hello" {
			t.Errorf("read %q, %v", dt, err)
		}
		target.Add(filesync.WithFSSync(3, func(map[string]string) (io.WriteCloser, error) { return &got, nil }))
		return []*exporter.ExporterRequest{{Type: "tar"}}, nil
	}, exporterprovider.WithFinalizeCallback(func(_ context.Context, response map[string]string) error {
		told = response
		return nil
	}))
	client, _ := sessiontest.Open(t, sessions, "", target, choose)
	req := builder.Request{Ref: "choose", Session: client.ID(), SessionTarget: &export.Target{ID: 3, Session: client.ID()}}
	go func() {
		bridge, err := b.Bridge(t.Context(), "choose")
		if err != nil {
			t.Error(err)
			return
		}
		res, err := bridge.Solve(t.Context(), gwclient.SolveRequest{Definition: definition(t, files())})
		if err == nil {
			res.AddMeta("frontend.note", []byte("for you"))
		}
		bridge.Return(res, err)
	}()
	resp, err := b.Build(t.Context(), req, event.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(told, resp.Exporter) || told["frontend.note"] != "for you" {
		t.Errorf("the client was told %v, the answer is %v", told, resp.Exporter)
	}
	names := ""
	for r := tar.NewReader(&got); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		names += h.Name + " "
	}
	if !strings.Contains(names, "a/hello") {
		t.Errorf("the client has %q", names)
	}
}

// TestSessionDoesNotChoose: a client may not know of exporters, or have none.
func TestSessionDoesNotChoose(t *testing.T) {
	var sessions *session.Manager
	b := open(t, func(c *builder.Config) { sessions = c.Sessions })
	final := func(err error) *exporterprovider.Exporter {
		return exporterprovider.New(nil, exporterprovider.WithFinalizeCallback(func(context.Context, map[string]string) error { return err }))
	}
	ignorant, _ := sessiontest.Open(t, sessions, "")
	silent, _ := sessiontest.Open(t, sessions, "", exporterprovider.New(nil))
	busy, _ := sessiontest.Open(t, sessions, "", final(status.Error(codes.Unavailable, "busy")))
	broken, _ := sessiontest.Open(t, sessions, "", final(status.Error(codes.Internal, "out of paper")))
	for client, want := range map[*session.Client]string{ignorant: "", silent: "", busy: "", broken: "out of paper"} {
		_, err := b.Build(t.Context(), builder.Request{
			Ref: client.ID(), Session: client.ID(), SessionTarget: &export.Target{Session: client.ID()}, Definition: definition(t, files()),
		}, event.Discard)
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// warned keeps warnings.
type warned struct {
	mu  sync.Mutex
	all []string
}

func (w *warned) Emit(e event.Event) {
	if x, ok := e.(*event.Warning); ok {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all = append(w.all, string(x.Short))
	}
}

func TestPlatformWarning(t *testing.T) {
	b := open(t, nil)
	for platform, want := range map[string]string{
		"":                        "",
		"linux/amd64,linux/arm64": "Multiple platforms requested but result is not multi-platform",
	} {
		req := builder.Request{Ref: "platforms", Definition: definition(t, files()), Attrs: map[string]string{}}
		if platform != "" {
			req.Attrs["platform"] = platform
		}
		var w warned
		if _, err := b.Build(t.Context(), req, &w); err != nil {
			t.Fatal(err)
		}
		if strings.Join(w.all, "|") != want {
			t.Errorf("%q: got %q, want %q", platform, w.all, want)
		}
	}
}
