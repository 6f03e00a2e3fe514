// Package progress shows how a build goes: drawn on a terminal, as lines or as JSON,
// and written beside that to a trace file or counted for cache metrics.
package progress

import (
	"context"
	"io"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
)

// Modes are the values of --progress.
var Modes = []string{"auto", "plain", "tty", "rawjson", "quiet"}

// Progress draws what it observes until it is closed.
type Progress struct {
	updates  chan *client.SolveStatus
	drawn    chan struct{}
	sinks    []func(*client.SolveStatus)
	warnings []client.VertexWarning
	err      error
}

// Start begins to draw on out, which is a terminal only if it is a console.File. Each
// sink is called with the same updates, in order. The caller closes the result.
func Start(out io.Writer, mode string, sinks ...func(*client.SolveStatus)) (*Progress, error) {
	display, err := progressui.NewDisplay(out, progressui.DisplayMode(mode))
	if err != nil {
		return nil, err
	}
	p := &Progress{updates: make(chan *client.SolveStatus), drawn: make(chan struct{}), sinks: sinks}
	go func() {
		defer close(p.drawn)
		// A cancelled build is drawn to its end: closing updates ends the drawing.
		p.warnings, p.err = display.UpdateFrom(context.Background(), p.updates)
	}()
	return p, nil
}

// Observe draws one update. It must not be called after Close, nor twice at once.
func (p *Progress) Observe(status *client.SolveStatus) {
	for _, sink := range p.sinks {
		sink(status)
	}
	p.updates <- status
}

// Close ends the drawing and returns the warnings that were observed.
func (p *Progress) Close() ([]client.VertexWarning, error) {
	close(p.updates)
	<-p.drawn
	return p.warnings, p.err
}
