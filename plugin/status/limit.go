package status

import (
	"fmt"
	"math"
	"time"

	units "github.com/docker/go-units"
)

// Limits bound the output of each stream of each step. A negative value means
// no limit.
type Limits struct {
	// Size is how many bytes are reported in all.
	Size int64
	// Speed is how many bytes are reported per second since the first.
	Speed int64
}

// DefaultLimits are 2 MiB and 200 KiB per second.
var DefaultLimits = Limits{Size: 2 << 20, Speed: 200 << 10}

// tailSize is how much of the output of a step that was clipped is kept for
// the case that the step fails.
const tailSize = 256 << 10

// limiter clips one stream of one step.
type limiter struct {
	limits   Limits
	started  time.Time
	written  int64 // by the step, shown or not
	clipping bool
	clipped  bool   // ever
	tail     []byte // the last output, where some was clipped
}

// clip returns what of the output is to be shown.
func (l *limiter) clip(data []byte, now time.Time) []byte {
	most, reached := l.allowed(now)
	room := int64(len(data))
	if most >= 0 {
		room = min(room, max(0, most-l.written))
	}
	l.written += int64(len(data))
	whole := room == int64(len(data))
	if !whole {
		l.clipped = true
	}
	if l.clipped {
		l.keep(data)
	}
	shown := data[:room]
	if !whole && !l.clipping {
		shown = fmt.Appendf(shown[:room:room], "\n[output clipped, log limit %s reached]\n", reached)
	}
	l.clipping = !whole
	return shown
}

// allowed returns how many bytes the step may have shown by now, negative for
// any number, and the limit that says so.
func (l *limiter) allowed(now time.Time) (int64, string) {
	most, reached := l.limits.Size, units.BytesSize(float64(l.limits.Size))
	if l.limits.Speed < 0 {
		return most, reached
	}
	seconds := max(1, math.Ceil(now.Sub(l.started).Seconds()))
	if bySpeed := int64(seconds) * l.limits.Speed; most < 0 || bySpeed < most {
		return bySpeed, units.BytesSize(float64(l.limits.Speed)) + "/s"
	}
	return most, reached
}

// keep remembers the end of the output.
func (l *limiter) keep(data []byte) {
	l.tail = append(l.tail, data...)
	if len(l.tail) > 2*tailSize {
		l.tail = append([]byte(nil), l.last()...)
	}
}

// last returns the end of the output where some of it was clipped.
func (l *limiter) last() []byte {
	return l.tail[max(0, len(l.tail)-tailSize):]
}
