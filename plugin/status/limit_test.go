package status

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/event"
)

func TestClip(t *testing.T) {
	t.Parallel()
	start := time.Now()
	write := func(l *limiter, after time.Duration, n int) string {
		return string(l.clip(bytes.Repeat([]byte("x"), n), start.Add(after)))
	}
	x := func(n int) string { return strings.Repeat("x", n) }

	size := &limiter{limits: Limits{Size: 4 << 10, Speed: -1}, started: start}
	const bySize = "\n[output clipped, log limit 4KiB reached]\n"
	for i, c := range []struct {
		n    int
		want string
	}{{4000, x(4000)}, {200, x(96) + bySize}, {10, ""}} {
		if got := write(size, 0, c.n); got != c.want {
			t.Errorf("size, write %d: got %d bytes ending in %.60q", i, len(got), got)
		}
	}
	if got := len(size.last()); got != 210 {
		t.Errorf("tail of %d bytes", got)
	}

	speed := &limiter{limits: Limits{Size: 2 << 20, Speed: 1 << 10}, started: start}
	const bySpeed = "\n[output clipped, log limit 1KiB/s reached]\n"
	for i, c := range []struct {
		after time.Duration
		n     int
		want  string
	}{
		{0, 1000, x(1000)},
		{0, 100, x(24) + bySpeed},
		{1500 * time.Millisecond, 100, x(100)},
		{1500 * time.Millisecond, 1000, x(848) + bySpeed},
	} {
		if got := write(speed, c.after, c.n); got != c.want {
			t.Errorf("speed, write %d: got %d bytes ending in %.60q", i, len(got), got)
		}
	}

	free := &limiter{limits: Limits{Size: -1, Speed: -1}, started: start}
	if got := write(free, 0, 10<<20); len(got) != 10<<20 {
		t.Errorf("no limits: %d bytes", len(got))
	}
}

func TestTailIsBounded(t *testing.T) {
	t.Parallel()
	l := &limiter{limits: Limits{Size: 0, Speed: -1}, started: time.Now()}
	for range 100 {
		l.clip(bytes.Repeat([]byte("x"), 100<<10), time.Now())
		if len(l.tail) > 3*tailSize {
			t.Fatalf("a tail of %d bytes", len(l.tail))
		}
	}
	if len(l.last()) != tailSize {
		t.Errorf("kept %d bytes", len(l.last()))
	}
}

func TestAFailedStepShowsItsLastOutput(t *testing.T) {
	t.Parallel()
	for _, failure := range []string{"", "exit code: 1"} {
		s := newStream(t, Limits{Size: 10, Speed: -1})
		now := time.Now()
		s.Emit(&event.Vertex{Digest: a, Started: &now})
		s.Emit(&event.Log{Vertex: a, Stream: event.Stdout, Data: []byte("0123456789"), Timestamp: now})
		s.Emit(&event.Log{Vertex: a, Stream: event.Stdout, Data: []byte("the reason"), Timestamp: now})
		s.Emit(&event.Vertex{Digest: a, Started: &now, Completed: ptr(time.Now()), Error: failure})
		closeStream(t, s)
		var logs strings.Builder
		for _, l := range collect(t, s).Logs {
			logs.Write(l.Msg)
		}
		if shown := strings.Contains(logs.String(), "the reason"); shown != (failure != "") {
			t.Errorf("with error %q the logs are %q", failure, logs.String())
		}
	}
}
