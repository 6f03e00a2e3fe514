package suite

import (
	"bufio"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// watch follows the output of one process and knows the state of its tests.
type watch struct {
	mu    sync.Mutex
	tests map[string]*state // by name; others in the output are parts of these
}

type state struct {
	status  Status        // "" until it ended
	took    time.Duration // as the test said
	running time.Time     // since when, zero while it waits for its turn
	hung    bool
}

func newWatch(tests []Test) *watch {
	w := &watch{tests: map[string]*state{}}
	for _, t := range tests {
		w.tests[t.String()] = &state{}
	}
	return w
}

// The lines of `test -v` that matter. With -test.v=test2json they come when a
// subtest ends, not when its parent does, and behind a mark.
var (
	resultLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(([0-9.]+)s\)`)
	stateLine  = regexp.MustCompile(`^=== (RUN|CONT|PAUSE)\s+(\S+)`)
)

const lineMark = 0x16

// follow reads to the end, copying what it reads to the log.
func (w *watch) follow(output io.Reader, log io.Writer) error {
	r := bufio.NewReaderSize(output, 1<<20)
	for {
		line, err := r.ReadString('\n')
		w.line(line[strings.LastIndexByte(line, lineMark)+1:])
		if _, err := io.WriteString(log, strings.ReplaceAll(line, string(rune(lineMark)), "")); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line takes note of one line without its mark.
func (w *watch) line(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := resultLine.FindStringSubmatch(line); m != nil {
		if s := w.tests[m[2]]; s != nil {
			seconds, _ := strconv.ParseFloat(m[3], 64)
			s.status, s.took, s.running = Status(m[1]), time.Duration(seconds*float64(time.Second)), time.Time{}
		}
		return
	}
	if m := stateLine.FindStringSubmatch(line); m != nil {
		s := w.tests[m[2]]
		switch {
		case s == nil:
		case m[1] == "PAUSE":
			s.running = time.Time{}
		case s.running.IsZero():
			s.running = time.Now()
		}
	}
}

// markHung finds tests that run longer than their limit.
func (w *watch) markHung(limit func(name string) time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := false
	for name, s := range w.tests {
		if !s.running.IsZero() && time.Since(s.running) > limit(name) {
			s.hung, s.took, found = true, time.Since(s.running), true
		}
	}
	return found
}

// outcome says what became of a test once its process has ended; nothing when
// it can't be told and another process has to try it again. A test that was
// alone has ended its process itself.
func (w *watch) outcome(t Test, alone bool) (Outcome, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.tests[t.String()]
	switch {
	case s.status != "":
		return Outcome{Status: s.status, Took: s.took}, true
	case s.hung:
		return Outcome{Status: Fail, Took: s.took, Note: "timeout"}, true
	case alone:
		return Outcome{Status: Fail, Note: "crash"}, true
	default:
		return Outcome{}, false
	}
}
