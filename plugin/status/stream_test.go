package status

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/event"
	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
)

var (
	a = digest.FromString("a")
	b = digest.FromString("b")
	c = digest.FromString("c")
)

func newStream(t *testing.T, limits Limits) *Stream {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return New(f, limits)
}

// collect joins all messages of an ended stream.
func collect(t *testing.T, s *Stream) *controlapi.StatusResponse {
	t.Helper()
	all := &controlapi.StatusResponse{}
	err := s.Follow(context.Background(), func(m *controlapi.StatusResponse) error {
		all.Vertexes = append(all.Vertexes, m.Vertexes...)
		all.Statuses = append(all.Statuses, m.Statuses...)
		all.Logs = append(all.Logs, m.Logs...)
		all.Warnings = append(all.Warnings, m.Warnings...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func closeStream(t *testing.T, s *Stream) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestStreamReportsWhatWasEmitted(t *testing.T) {
	t.Parallel()
	s := newStream(t, DefaultLimits)
	now := time.Now()
	s.Emit(&event.Vertex{Digest: a, Name: "step \xff"})
	s.Emit(&event.Vertex{Digest: b, Name: "next", Inputs: []digest.Digest{a}})
	s.Emit(&event.Vertex{Digest: a, Name: "step", Started: &now, Completed: &now})
	s.Emit(&event.Status{Vertex: a, ID: "layer", Current: 1, Total: 2, Timestamp: now})
	s.Emit(&event.Log{Vertex: a, Stream: event.Stderr, Data: []byte("hello"), Timestamp: now})
	s.Emit(&event.Warning{Vertex: a, Short: []byte("look")})
	closeStream(t, s)
	s.Emit(&event.Vertex{Digest: c}) // dropped

	got := collect(t, s)
	last := map[string]*controlapi.Vertex{}
	for _, v := range got.Vertexes {
		last[v.Digest] = v
	}
	if v := last[a.String()]; v == nil || v.Completed == nil || v.Name != "step" {
		t.Errorf("vertex a: %v", v)
	}
	if v := last[b.String()]; v == nil || v.Started != nil || len(v.Inputs) != 1 {
		t.Errorf("vertex b: %v", v)
	}
	if len(last) != 2 || len(got.Statuses) != 1 || len(got.Warnings) != 1 {
		t.Errorf("got %d vertices, %d items, %d warnings", len(last), len(got.Statuses), len(got.Warnings))
	}
	if len(got.Logs) != 1 || string(got.Logs[0].Msg) != "hello" || got.Logs[0].Stream != 2 {
		t.Errorf("logs: %v", got.Logs)
	}
	if sum := s.Summary(); sum != (Summary{Total: 2, Completed: 1, Warnings: 1}) {
		t.Errorf("summary %+v", sum)
	}
}

func TestInputsOfAStartedStepAreCached(t *testing.T) {
	t.Parallel()
	s := newStream(t, DefaultLimits)
	now := time.Now()
	s.Emit(&event.Vertex{Digest: a})
	s.Emit(&event.Vertex{Digest: b, Inputs: []digest.Digest{a}})
	s.Emit(&event.Vertex{Digest: c, Inputs: []digest.Digest{b}})
	s.Emit(&event.Vertex{Digest: c, Inputs: []digest.Digest{b}, Started: &now})
	closeStream(t, s)
	last := map[string]*controlapi.Vertex{}
	for _, v := range collect(t, s).Vertexes {
		last[v.Digest] = v
	}
	for _, d := range []digest.Digest{a, b} {
		if v := last[d.String()]; v == nil || !v.Cached || v.Completed == nil {
			t.Errorf("%s: %v", d, v)
		}
	}
	if v := last[c.String()]; v.Cached || v.Completed == nil || v.Error != context.Canceled.Error() {
		t.Errorf("the running step should end as cancelled: %v", v)
	}
	if sum := s.Summary(); sum != (Summary{Total: 3, Completed: 3, Cached: 2}) {
		t.Errorf("summary %+v", sum)
	}
}

func TestManyReadersSeeTheSame(t *testing.T) {
	t.Parallel()
	s := newStream(t, Limits{Size: -1, Speed: -1})
	const lines, readers = 500, 4
	got := make([]bytes.Buffer, readers)
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			err := s.Follow(context.Background(), func(m *controlapi.StatusResponse) error {
				for _, l := range m.Logs {
					got[i].Write(l.Msg)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	var want bytes.Buffer
	for i := range lines {
		line := fmt.Appendf(nil, "line %d\n", i)
		want.Write(line)
		s.Emit(&event.Log{Vertex: a, Stream: event.Stdout, Data: line, Timestamp: time.Now()})
	}
	closeStream(t, s)
	wg.Wait()
	for i := range got {
		if !bytes.Equal(got[i].Bytes(), want.Bytes()) {
			t.Errorf("reader %d got %d bytes of %d, or others", i, got[i].Len(), want.Len())
		}
	}
}

func TestMessagesAreBounded(t *testing.T) {
	t.Parallel()
	s := newStream(t, Limits{Size: -1, Speed: -1})
	data := bytes.Repeat([]byte("x"), 5<<20)
	s.Emit(&event.Log{Vertex: a, Stream: event.Stdout, Data: data, Timestamp: time.Now()})
	for i := range 20000 {
		s.Emit(&event.Vertex{Digest: digest.FromString(fmt.Sprint(i)), Name: "a step of a large graph"})
	}
	closeStream(t, s)
	var messages, logs, vertices int
	err := s.Follow(context.Background(), func(m *controlapi.StatusResponse) error {
		messages++
		vertices += len(m.Vertexes)
		size := 0
		for _, l := range m.Logs {
			size += len(l.Msg)
		}
		logs += size
		if size > 1<<20 || m.SizeVT() > 2<<20 {
			t.Errorf("a message of %d bytes with %d bytes of logs", m.SizeVT(), size)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if logs != len(data) || vertices != 20000 {
		t.Errorf("got %d bytes of logs and %d vertices", logs, vertices)
	}
	if messages < 5 || messages > 30 {
		t.Errorf("%d messages", messages)
	}
}

func TestFollowStopsWithItsContext(t *testing.T) {
	t.Parallel()
	s := newStream(t, DefaultLimits)
	defer closeStream(t, s)
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("the client has gone")
	cancel(gone)
	if err := s.Follow(ctx, func(*controlapi.StatusResponse) error { return nil }); !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
}

// brokenLog is a full disk.
type brokenLog struct{}

func (brokenLog) Write([]byte) (int, error)         { return 1, errors.New("no space left") }
func (brokenLog) ReadAt([]byte, int64) (int, error) { return 0, errors.New("not reached") }

func TestAFailingLogEndsReadersNotTheBuild(t *testing.T) {
	t.Parallel()
	s := New(brokenLog{}, DefaultLimits)
	s.Emit(&event.Vertex{Digest: a})
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("Close: %v", err)
	}
	if err := s.Follow(context.Background(), nil); err == nil {
		t.Error("Follow: no error")
	}
}

func TestItemsHaveAVerb(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{"transferring ctx:": "transferring", "sha256:00": "", "": ""} {
		if got := itemPB(&event.Status{ID: id}).Name; got != want {
			t.Errorf("%q: got %q, want %q", id, got, want)
		}
	}
}
